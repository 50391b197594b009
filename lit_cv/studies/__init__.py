"""Questions that take many fits: which approach to train (`comparison`), and how well it does (`kfold`).

`study` plans and resumes the fits, `study_run` performs one of them.
"""
