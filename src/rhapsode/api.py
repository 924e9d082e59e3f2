"""The verbs in Python: `rhapsode.train(...)` and `rhapsode.load(...)`."""
