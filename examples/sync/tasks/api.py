"""The API, for programs. A real one asks who they are."""

import json

from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from tasks.models import Change, Task

FIELDS = {"title", "done"}


def save(task, fields):
    """Takes the fields of a JSON object and saves the task, if it is good."""
    if not isinstance(fields, dict) or not fields.keys() <= FIELDS:
        raise ValidationError({"task": ["an object with `title` and `done`"]})
    for name, value in fields.items():
        setattr(task, name, value)
    task.full_clean()
    task.save()
    return task.shown()


@csrf_exempt
@require_http_methods(["GET", "POST"])
def tasks(request):
    """All of them, with the number of the last change; `?have=<number>`: only when there is something new.

    POST takes one task or a list: all of it is saved, or nothing.
    """
    if request.method == "GET":
        number = Change.latest_number()
        if request.GET.get("have") == str(number):
            return HttpResponse(status=204)
        state = {"number": number, "tasks": [task.shown() for task in Task.objects.all()]}
        return JsonResponse(state, headers={"Cache-Control": "no-store"})
    return judged(request, lambda given: [save(Task(), each) for each in given] if isinstance(given, list) else save(Task(), given), 201)


@csrf_exempt
@require_http_methods(["PATCH", "DELETE"])
def task(request, pk):
    kept = get_object_or_404(Task, pk=pk)
    if request.method == "DELETE":
        kept.delete()
        return HttpResponse(status=204)
    return judged(request, lambda given: save(kept, given), 200)


def judged(request, change, status):
    try:
        # What was saved before the mistake was found is taken back, and so is what would have been told of it.
        with transaction.atomic():
            return JsonResponse(change(json.loads(request.body)), status=status, safe=False)
    except ValidationError as mistake:
        return JsonResponse({"errors": mistake.message_dict}, status=400)
    except ValueError:
        return JsonResponse({"errors": {"body": ["is no JSON"]}}, status=400)
