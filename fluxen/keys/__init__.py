"""Who may call: client keys, where they are kept and how they are told apart."""
