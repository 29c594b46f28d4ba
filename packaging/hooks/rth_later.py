# DuckDB is two thirds of the executable, and most commands do without. A one-file executable unpacks all of itself at
# each start; what fluxen.spec has marked as LATER is left in it until somebody imports it, and unpacked then, beside
# the rest. In the folder form nothing is marked.
def _install():
    import struct
    import sys

    COOKIE, ENTRY = struct.Struct("!8sIIII64s"), struct.Struct("!IIIIBc")  # PyInstaller's, behind and in its archive
    found = []

    def contents(archive):
        """Each such file by the name of its module: (file, where in the archive it is, how long). None: no archive."""
        start = archive.seek(max(0, archive.seek(0, 2) - 65536))
        end = archive.read()
        at = end.rfind(b"MEI\014\013\012\013\016")
        if at < 0:
            return None
        _, length, table, table_length, *_ = COOKIE.unpack_from(end, at)
        package = start + at + COOKIE.size - length
        archive.seek(package + table)
        entries, at, raw = {}, 0, archive.read(table_length)
        while at < table_length:
            size, offset, _, length, _, kind = ENTRY.unpack_from(raw, at)
            if kind == b"L":
                file = raw[at + ENTRY.size : at + size].rstrip(b"\0").decode()
                entries[file.partition(".")[0]] = (file, package + offset, length)
            at += size
        return entries

    def own():
        """(path, contents) of the running program's own file, also when an upgrade has put another in its place; an
        emulator may show itself instead."""
        from pathlib import Path

        for path in (Path("/proc/self/exe"), Path(sys.executable)):
            if path.exists():
                with path.open("rb") as archive:
                    entries = contents(archive)
                if entries is not None:
                    return path, entries
        return None, {}

    def unpack(source, file, offset, length):
        """Under another name first: of two processes that do this at once, neither finds half a file."""
        import os
        from pathlib import Path

        path = Path(sys._MEIPASS, file)
        if not path.exists():
            hidden = path.with_name(f"{file}.{os.getpid()}")
            try:
                with source.open("rb") as archive, hidden.open("wb") as out:
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
            if not found:
                found.append(own())
            source, entries = found[0]
            if name not in entries:
                return None
            from importlib.util import spec_from_file_location

            return spec_from_file_location(name, unpack(source, *entries[name]))

    sys.meta_path.append(Later)


_install()
del _install
