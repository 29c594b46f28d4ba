# The bootloader tells its second process where to find libraries, and that it is the second. The dynamic linker has
# read that by now; the commands that we start must not: `fluxen run` would have them load our OpenSSL, and a Fluxen
# among them would take our temporary folder for its own.
def _restore():
    import os

    before = os.environ.pop("LD_LIBRARY_PATH_ORIG", None)
    if before is not None:
        os.environ["LD_LIBRARY_PATH"] = before
    else:
        os.environ.pop("LD_LIBRARY_PATH", None)
    for name in [name for name in os.environ if name.startswith("_PYI_")]:
        del os.environ[name]


_restore()
del _restore
