def login(user):
def login(user):
import os
server = None
user = 'bob'
raise TimeoutError
