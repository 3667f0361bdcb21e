"""Says which saves are to be seen by others. Nothing else in the application knows of it."""

from django.apps import AppConfig


class Tasks(AppConfig):
    name = "tasks"

    def ready(self):
        from tasks import live
        from tasks.models import Task

        live.follow(Task, "tasks", Task.shown)
