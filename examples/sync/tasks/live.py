"""Tells the bus what was saved: one call of `follow` for each model, and its views and forms need to know nothing of it.

Only what was committed is told. A bus that is away fails no save: pages find out by the number that they missed one.
`QuerySet.update()` and `bulk_create()` send no signals in Django; who uses them calls `tell` himself.
"""

from django.db import transaction
from django.db.models.signals import post_delete, post_save

from tasks import bus
from tasks.models import Change


def follow(model, channel, shown):
    """Publishes each save and deletion of the model's rows to the channel."""

    def saved(instance, **_):
        tell(channel, saved=shown(instance))

    def deleted(instance, **_):
        tell(channel, deleted=instance.pk)

    # Strong references: these functions have no other owner.
    post_save.connect(saved, sender=model, weak=False)
    post_delete.connect(deleted, sender=model, weak=False)


def tell(channel, **change):
    message = {"number": Change.objects.create().pk, **change}
    # `robust`: what goes wrong there is logged, and no reason to tell the user that nothing was saved.
    # A `partial` has no name, for which Django looks when it logs.
    transaction.on_commit(lambda: bus.publish(channel, message), robust=True)
