"""The pages and the API."""

from django.urls import path
from tasks import api, views

urlpatterns = [
    path("", views.index),
    path("add", views.add),
    path("<int:pk>/toggle", views.toggle),
    path("<int:pk>/delete", views.delete),
    path("api/tasks", api.tasks),
    path("api/tasks/<int:pk>", api.task),
]
