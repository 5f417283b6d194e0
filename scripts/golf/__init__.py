"""What the tools around records share: run folders, record folders, rules, statistics, the referee's two processes.

    runs       reads the log of a run and the run folder
    records    reads a record folder; derives submission.json from logs and files
    rules      every check of a record folder, each finding with its rule id
    source     what a trainer's source does, read and never run; packed sources
    artifacts  the outside of artifact.bin, read without unpacking the weights
    schema     JSON against a schema
    stats      mean, sd, Welch's test
    child      the side of the referee that runs the submission, and its jail
    needs      what to type where a package is missing
    interrupts what Ctrl-C leaves of a tool: a word and an exit status
    texts      strangers' text made safe to print
    results    runs and records as rows to compare, with the device's calibration figure
    report_*   what report.py shows: scores of tokens, charts (Bokeh), the page
    device_probe  what doctor.py asks of torch or MLX, in a process of its own

Standard library only, except for the referee's parent, report_* and device_probe, so that a folder can be checked on
a bare machine.
"""
