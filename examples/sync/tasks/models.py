"""What is kept: the tasks, and a number for each change of them."""

from django.db import models


class Task(models.Model):
    title = models.CharField(max_length=120)
    done = models.BooleanField(default=False)

    class Meta:
        ordering = ["pk"]

    def shown(self):
        """What others see of it."""
        return {"id": self.pk, "title": self.title, "done": self.done}


class Change(models.Model):
    """Numbers the changes, in the transaction that makes them: whoever has seen number 7 and hears 9 has missed one."""

    at = models.DateTimeField(auto_now_add=True)

    @classmethod
    def latest_number(cls):
        return cls.objects.aggregate(models.Max("pk"))["pk__max"] or 0
