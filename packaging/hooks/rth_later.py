# DuckDB is two thirds of the executable, and most commands do without. A one-file executable unpacks all of itself at
# each start; what fluxen.spec has marked as LATER is left in it until somebody imports it, and unpacked then, beside
# the rest. In the folder form there is nothing of that kind: the finder is never asked for what is there.
def _install():
    import sys

    entries = {}

    def read_contents(archive):
        """Where in the executable each such file is: PyInstaller's table of contents, found by the cookie behind it."""
        import struct

        size = archive.seek(0, 2)
        start = archive.seek(max(0, size - 65536))
        cookie = struct.Struct("!8sIIII64s")
        end = archive.read()
        at = end.rindex(b"MEI\014\013\012\013\016")
        _, length, toc, toc_length, *_ = cookie.unpack_from(end, at)
        package = start + at + cookie.size - length
        archive.seek(package + toc)
        table = archive.read(toc_length)
        entry, at = struct.Struct("!IIIIBc"), 0
        while at < toc_length:
            size, offset, _, length, _, kind = entry.unpack_from(table, at)
            if kind == b"L":
                file = table[at + entry.size : at + size].rstrip(b"\0").decode()
                entries[file.partition(".")[0]] = (file, package + offset, length)
            at += size

    def unpack(archive, file, offset, length):
        """Under another name first: of two processes that do this at once, neither finds half a file."""
        import os
        from pathlib import Path

        path = Path(sys._MEIPASS, file)
        if not path.exists():
            hidden = path.with_name(f"{file}.{os.getpid()}")
            try:
                with hidden.open("wb") as out:
                    end = offset + length
                    while offset < end:
                        offset += os.sendfile(out.fileno(), archive.fileno(), offset, end - offset)
                hidden.rename(path)
            except OSError as error:  # no room, most likely: then it helps to know where
                hidden.unlink(missing_ok=True)
                raise OSError(error.errno, error.strerror, str(path)) from None
        return path

    class Later:
        """The last of the finders."""

        @staticmethod
        def find_spec(name, path=None, _=None):
            if path is not None or "." in name:
                return None
            from pathlib import Path

            running = Path("/proc/self/exe")  # also when an upgrade has put another file in its place
            with (running if running.exists() else Path(sys.executable)).open("rb") as archive:
                if not entries:
                    entries[""] = None
                    read_contents(archive)
                if name not in entries:
                    return None
                from importlib.util import spec_from_file_location

                return spec_from_file_location(name, unpack(archive, *entries[name]))

    sys.meta_path.append(Later)


_install()
del _install
