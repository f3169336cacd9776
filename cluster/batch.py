"""The name of `cluster.head.batch` in scripts that were submitted before it moved; to be removed after one release."""

import runpy

if __name__ == "__main__":
    runpy.run_module("cluster.head.batch", run_name="__main__")
