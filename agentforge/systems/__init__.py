"""Systems: model families that plug in. A folder here, or another distribution's entry point, adds one.

`base` says what a system may bring, `registry` finds them. Nothing outside a system's folder imports from inside it.
"""
