"""Runs `cluster.head.batch` in its place."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cluster.head.batch", run_name="__main__")
