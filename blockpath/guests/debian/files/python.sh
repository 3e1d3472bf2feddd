#!/bin/sh
# Debian's Python with the packages of the checkout's virtual environment.
PYTHONPATH=/usr/local/lib/rig/python PYTHONDONTWRITEBYTECODE=1 \
    exec /usr/bin/python3 "$@"
