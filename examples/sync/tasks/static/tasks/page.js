// Draws the tasks. Forms are sent as they are, only without a reload: what comes of them arrives like everybody else's.

import { follow } from "./live.js";

const list = document.getElementById("tasks");
const find = (id) => list.querySelector(`[data-id="${CSS.escape(id)}"]`);

function draw({ id, title, done }) {
  const row = find(id) ?? document.getElementById("row").content.firstElementChild.cloneNode(true);
  row.dataset.id = id;
  row.dataset.done = done;
  row.querySelector(".title").textContent = title;
  row.querySelector(".toggle button").setAttribute("aria-pressed", done);
  for (const form of row.querySelectorAll("form")) form.action = `/${id}/${form.className}`;
  return row;
}

function count() {
  const [done, all] = [list.querySelectorAll("[data-done=true]").length, list.children.length];
  document.getElementById("count").textContent = all ? `${done} of ${all} done` : "Nothing is to be done.";
}

follow({
  stream: document.body.dataset.push,
  state: document.body.dataset.state,
  onState({ tasks }) {
    list.replaceChildren(...tasks.map(draw));
    count();
  },
  onChange({ saved, deleted }) {
    if (deleted !== undefined) find(deleted)?.remove();
    if (saved) {
      const row = draw(saved);
      if (!row.isConnected) list.append(row);
      // Started anew for each change of the same row.
      row.classList.remove("new");
      void row.offsetWidth;
      row.classList.add("new");
    }
    count();
  },
  onStatus(status) {
    const pill = document.getElementById("state");
    pill.dataset.state = status;
    pill.textContent = { connecting: "connecting", live: "live", waiting: "connecting again" }[status];
  },
});

document.addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const sent = await fetch(form.action, { method: "POST", body: new FormData(form) }).catch(() => undefined);
  // A task that is gone meanwhile is no mistake of whoever pressed its button.
  document.getElementById("problem").hidden = sent?.ok || sent?.status === 404;
  if (sent?.ok && form.id === "add") form.reset();
});
