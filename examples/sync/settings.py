"""An ordinary Django project: one application, SQLite, and three settings of its own at the end."""

import os
from pathlib import Path

# For this machine only: in the world outside the key is a secret and DEBUG is off.
SECRET_KEY = os.environ.get("SECRET_KEY", "of no use to anybody")
DEBUG = True
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]

INSTALLED_APPS = ["django.contrib.staticfiles", "tasks"]
MIDDLEWARE = ["django.middleware.common.CommonMiddleware", "django.middleware.csrf.CsrfViewMiddleware"]
ROOT_URLCONF = "urls"
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("DATABASE", Path(__file__).parent / "tasks.sqlite3"),
        # Writers wait for each other from their first statement on, instead of failing at their second.
        "OPTIONS": {"transaction_mode": "IMMEDIATE", "timeout": 20},
        # What a request changes is there as a whole, with its number, or not at all.
        "ATOMIC_REQUESTS": True,
    }
}

# Where changes are told, what all names begin with there, and where browsers hear of them.
BUS_URL = os.environ.get("BUS_URL", "redis://127.0.0.1:6379")
BUS_PREFIX = os.environ.get("BUS_PREFIX", "clarion")
PUSH_URL = os.environ.get("PUSH_URL", "http://127.0.0.1:8000")
