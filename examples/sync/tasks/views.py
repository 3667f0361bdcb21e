"""The page and its forms, as they would be without anything live."""

from django.conf import settings
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from tasks.models import Task


@require_safe
def index(request):
    return render(request, "tasks/index.html", {"tasks": Task.objects.all(), "push": f"{settings.PUSH_URL}/tasks"})


@require_POST
def add(request):
    title = request.POST.get("title", "").strip()[:120]
    if title:
        Task.objects.create(title=title)
    return redirect("/")


@require_POST
def toggle(request, pk):
    task = get_object_or_404(Task, pk=pk)
    task.done = not task.done
    task.save()
    return redirect("/")


@require_POST
def delete(request, pk):
    get_object_or_404(Task, pk=pk).delete()
    return redirect("/")
