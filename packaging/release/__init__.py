"""What `make dist` makes of a frozen program: archives, a Debian package, licences, a bill of materials."""
