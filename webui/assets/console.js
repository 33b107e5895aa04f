// Keeps the panels of a page fresh by server-sent events, and copies commands. Pages work without it.
"use strict";

// Changes `old` into `fresh` in place, so that focus, selection and transitions survive an update.
function morph(old, fresh) {
  const before = [...old.childNodes], after = [...fresh.childNodes];
  after.forEach((node, i) => {
    const was = before[i];
    if (!was) return old.append(node);
    if (was.nodeType !== node.nodeType || was.nodeName !== node.nodeName || was.id !== node.id) return was.replaceWith(node);
    if (node.nodeType !== Node.ELEMENT_NODE) {
      if (was.data !== node.data) was.data = node.data;
      return;
    }
    for (const { name } of [...was.attributes]) {
      // What the viewer opened stays open.
      if (!node.hasAttribute(name) && name !== "open") was.removeAttribute(name);
    }
    for (const { name, value } of node.attributes) {
      if (was.getAttribute(name) !== value) was.setAttribute(name, value);
    }
    morph(was, node);
  });
  before.slice(after.length).forEach((node) => node.remove());
}

function show(id, html) {
  const panel = document.getElementById(id);
  if (!panel) return;
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  offerCopies(fresh.content);
  morph(panel, fresh.content);
}

// A button beside each text that is there to be copied.
function offerCopies(root) {
  for (const source of root.querySelectorAll("[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy-button";
    button.textContent = "Copy";
    source.after(button);
  }
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest(".copy-button");
  if (!button) return;
  try {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent.trim());
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(button.previousElementSibling);
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
});

offerCopies(document);

if (document.querySelector("[id^=panel-]")) {
  const lost = document.getElementById("lost");
  let heard = new Date();
  const hear = () => { heard = new Date(); lost.hidden = true; document.body.classList.remove("is-lost"); };
  const listen = () => {
    const stream = new EventSource("/events/stream");
    stream.addEventListener("panels", (event) => {
      hear();
      for (const [id, html] of Object.entries(JSON.parse(event.data))) show(id, html);
    });
    stream.addEventListener("alive", hear);
    stream.addEventListener("error", () => {
      // Refused, not cut off: the session has ended. The page itself leads to the door.
      if (stream.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 2000);
    });
    // A browser keeps pages that were left, and has six connections for a server: the next page may wait for this one's.
    addEventListener("pagehide", () => stream.close(), { once: true });
  };
  listen();
  addEventListener("pageshow", (event) => { if (event.persisted) listen(); });
  setInterval(() => {
    if (new Date() - heard > 9000 && lost.hidden) {
      lost.querySelector("time").textContent = heard.toLocaleTimeString();
      lost.hidden = false;
      document.body.classList.add("is-lost");
    }
  }, 1000);
}
