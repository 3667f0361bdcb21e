# pip install pyjwt
import os
import time

import jwt


def token_for(user):
    """What your server gives to a page whose user has signed in."""
    claims = {"sub": str(user), "exp": int(time.time()) + 3600}
    return jwt.encode(claims, os.environ["CLARION_JWT_SECRET"], algorithm="HS256")


print(token_for(42))
