"""Two clerks sell one unit each with Django: by saving a model that both have read, then by the call."""

import json
import os
import sys

import django
from django.conf import settings

database = {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"]}
# before the models are imported
settings.configure(DATABASES={"default": database})
django.setup()

from django.db import connection, models  # noqa: E402


class Inventory(models.Model):
    id = models.BigIntegerField(primary_key=True)
    quantity = models.DecimalField(max_digits=28, decimal_places=18)

    class Meta:
        app_label = "shop"
        db_table = "inventory"
        managed = False


item = int(sys.argv[1])


def left():
    return int(Inventory.objects.get(pk=item).quantity)


first, second = Inventory.objects.get(pk=item), Inventory.objects.get(pk=item)
for clerk in (first, second):
    clerk.quantity -= 1
    clerk.save()
saved = left()
with connection.cursor() as cursor:
    for _ in (first, second):
        cursor.execute("SELECT decrement_item(%s, %s)", (item, 1))
print(json.dumps({"saved": saved, "called": left()}))
