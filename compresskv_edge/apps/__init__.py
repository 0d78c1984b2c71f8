"""What people start: the command line, the chat, the server, the demo, the bench."""
