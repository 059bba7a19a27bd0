"use strict";
// What the model says is only ever set as text, never as HTML.
const byId = (name) => document.getElementById(name);
const messages = [];
let model = "";
let running = null; // AbortController of the answer that is coming

const headers = () => {
  const key = byId("key").value;
  return { "Content-Type": "application/json", ...(key && { Authorization: `Bearer ${key}` }) };
};

function addTurn(role, text) {
  const turn = document.createElement("section");
  turn.className = `turn ${role}`;
  const said = document.createElement("div");
  said.className = "said";
  said.textContent = text;
  const footer = document.createElement("footer");
  const note = document.createElement("span");
  note.textContent = role === "user" ? "You" : model;
  const copy = document.createElement("button");
  copy.type = "button";
  copy.textContent = "Copy";
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(said.textContent);
    } catch {
      // Without https the browser has no clipboard for us: mark the text, so that one key copies it.
      getSelection().selectAllChildren(said);
      copy.textContent = "Marked";
      return;
    }
    copy.textContent = "Copied";
  });
  footer.append(note, copy);
  turn.append(said, footer);
  const turns = byId("turns");
  turns.append(turn);
  turns.scrollTop = turns.scrollHeight;
  return { turn, said, note };
}

// The data of each server-sent event, as it arrives.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
  }
}

async function reason(response) {
  const text = await response.text();
  try {
    const said = JSON.parse(text).error;
    return said.message || said;
  } catch {
    return text || `the server answered ${response.status}`;
  }
}

async function answer() {
  const system = byId("system").value.trim();
  const shown = addTurn("assistant", "");
  shown.turn.classList.add("running");
  running = new AbortController();
  byId("send").hidden = true;
  byId("stop").hidden = false;
  try {
    const response = await fetch("v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: running.signal,
      body: JSON.stringify({
        model,
        messages: system ? [{ role: "system", content: system }, ...messages] : messages,
        stream: true,
        temperature: Number(byId("temperature").value),
        top_p: Number(byId("top_p").value),
        max_tokens: Number(byId("max_tokens").value),
      }),
    });
    if (!response.ok) throw new Error(await reason(response));
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const part = JSON.parse(data);
      if (part.error) throw new Error(part.error.message || part.error);
      const choice = part.choices[0];
      if (!choice) continue;
      shown.said.textContent += choice.delta.content || "";
      if (choice.finish_reason === "length") shown.note.textContent += " · cut at the most tokens";
      byId("turns").scrollTop = byId("turns").scrollHeight;
    }
  } catch (error) {
    if (error.name === "AbortError") {
      shown.note.textContent += " · stopped";
    } else {
      shown.note.textContent = error.message;
      shown.note.className = "failed";
    }
  }
  messages.push({ role: "assistant", content: shown.said.textContent });
  shown.turn.classList.remove("running");
  running = null;
  byId("send").hidden = false;
  byId("stop").hidden = true;
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || running) return;
  byId("question").value = "";
  messages.push({ role: "user", content: question });
  addTurn("user", question);
  answer();
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    byId("ask").requestSubmit();
  }
});
byId("stop").addEventListener("click", () => running && running.abort());
byId("new").addEventListener("click", () => {
  if (running) running.abort();
  messages.length = 0;
  byId("turns").replaceChildren();
});

fetch("v1/models", { headers: headers() })
  .then((response) => response.json())
  .then((list) => {
    model = list.data[0].id;
    byId("model").textContent = model;
  })
  .catch(() => {
    byId("model").textContent = "the server does not say which model it has; set a key and reload";
  });
