"""What the commands in scripts/ share, a job a file.

    runs            reads the log of a run and the run folder
    records         reads a record folder; derives submission.json from logs and files
    rules           every check of a record folder: rules_files, rules_claim, rules_run and rules_seeds hold them
    findings        what a check finds, with its rule id
    source          what a trainer's source does, read and never run; packed sources
    artifacts       the outside of artifact.bin, whose weights are unpacked for their checksum at most
    schema          JSON against a schema
    texts           strangers' text made safe to print
    stats           mean, sd, Welch's test
    needs           what to type where a package is missing
    interrupts      what Ctrl-C leaves of a tool: a word and an exit status
    leaderboard_page  docs/leaderboard.html

The referee: questions (what it asks), submission (the process it asks, as seen from outside), child (that process from inside), plain (how
it serves a plain trainer), offences (what it names), jail (what holds it), traces (what one process could leave for the next).

Comparing: results (runs and records as rows, with the device's calibration figure), significance (Welch's test with intervals and power).

Campaigns: campaigns (the file and what is there of its runs), campaign_work (keeping places busy), places (devices, CPUs, Ray),
campaign_table (the results).

report_* is what report.py shows: scores of tokens, charts (Bokeh), the page. device_probe is what doctor.py asks of torch or MLX, in a
process of its own.

Of the first list all is standard library only, so that a folder can be checked on a bare machine.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
