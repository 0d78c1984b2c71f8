"""`compresskv chat`: a conversation about a document in the terminal.

conversation.py talks to the model and knows nothing of terminals; terminal.py is the loop around it.
"""
