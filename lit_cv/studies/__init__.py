"""Studies of many fits: which approach to train (`comparison`), and how well it generalizes (`kfold`).

`study` plans and resumes the fits; `study_run` runs one of them.
"""
