"""What the commands in data/ share, a job a file.

console: messages, progress, exit status. shards: the public layout, shards and manifests. reading: text of any form in, documents out.
dedupe: the hash of a text, its split, whether it was seen. encoders: documents to tokens; training a tokenizer. dataset_writer: a whole
dataset folder or none. hub: files of a repository, fetched and checked. published: what the published manifest says, and which files to
fetch. bundle: datasets in one file, for machines without a network. audit_inputs, audit_checks: what an audit reads, and what it checks.
overlap: stretches of tokens that two sets share.
"""
