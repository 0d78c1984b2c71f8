"""The demo: one long document, asked with the full cache and with a compressed one."""
