"""`python -m session` is `refold`."""

from session.cli import main

if __name__ == "__main__":
    main()
