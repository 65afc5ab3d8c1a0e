"""What the store costs, one question per module: `python -m bench`, `python -m bench.append`, `--help`.

Every module answers its question with `run(size)`. Contestants do the same work in interleaved rounds on one machine in
one run; what is judged are ratios between them, taken round by round, for absolute times mean little on a shared disk.
"""
