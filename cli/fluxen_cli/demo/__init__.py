"""`fluxen demo`: a provider that answers from a script, three teams that talk to it through a real gateway, and the
reports. Nothing leaves the machine, and nothing of the user's is read or written."""
