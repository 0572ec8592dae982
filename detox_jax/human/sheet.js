"use strict";

// --- the table, which `detox_jax.human.answers` reads ---

function quoted(cell) {
  return /[",\r\n]/.test(cell) ? '"' + cell.replaceAll('"', '""') + '"' : cell;
}

function toCsv(data, answers) {
  const names = data.questions.map((question) => question.name);
  const lines = [[...data.columns, ...names]];
  for (const row of data.rows) {
    lines.push([...row, ...names.map((name) => (answers[row[0]] || {})[name] || "")]);
  }
  return "\ufeff" + lines.map((line) => line.map(quoted).join(",") + "\r\n").join("");
}

function fromCsv(data, text) {
  const cells = /("(?:[^"]|"")*"|[^,\r\n]*)(,|\r?\n|$)/g;
  const lines = [[]];
  text = text.replace(/^\ufeff/, "");
  while (cells.lastIndex < text.length) {
    const [, cell, end] = cells.exec(text);
    lines[lines.length - 1].push(cell.startsWith('"') ? cell.slice(1, -1).replaceAll('""', '"') : cell);
    if (end !== ",") lines.push([]);
  }
  const header = lines[0];
  const items = new Set(data.rows.map((row) => row[0]));
  const answers = {};
  for (const line of lines.slice(1)) {
    const item = line[header.indexOf(data.columns[0])];
    if (!items.has(item)) continue;
    answers[item] = {};
    for (const { name } of data.questions) {
      const answer = line[header.indexOf(name)];
      if (["A", "B", "equal"].includes(answer)) answers[item][name] = answer;
    }
  }
  return answers;
}

// What a file does not answer stays as it is on the page.
function merged(answers, loaded) {
  const all = { ...answers };
  for (const [item, given] of Object.entries(loaded)) all[item] = { ...all[item], ...given };
  return all;
}

function isDone(data, answers, row) {
  return data.questions.every(({ name }) => (answers[row[0]] || {})[name]);
}

// --- the page ---

function start(data) {
  const at = (id) => document.getElementById(id);
  let answers = {};
  try {
    answers = JSON.parse(localStorage.getItem(data.key)) || {};
  } catch { /* A browser may keep nothing for files. */ }
  let index = Math.max(0, data.rows.findIndex((row) => !isDone(data, answers, row)));

  function keep() {
    try {
      localStorage.setItem(data.key, JSON.stringify(answers));
    } catch {
      at("said").textContent = "This browser keeps no answers: save before you close the page.";
    }
  }

  function choice(item, name, value) {
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "radio", name, value });
    input.checked = (answers[item] || {})[name] === value;
    input.addEventListener("change", () => {
      answers[item] = { ...answers[item], [name]: value };
      keep();
      progress();
    });
    label.append(input, " ", value);
    return label;
  }

  function progress() {
    const done = data.rows.filter((row) => isDone(data, answers, row)).length;
    at("progress").textContent = `${index + 1} of ${data.rows.length}; ${done} answered`;
    at("next").disabled = !isDone(data, answers, data.rows[index]);
  }

  function show() {
    const [item, prompt, a, b] = data.rows[index];
    at("prompt").textContent = prompt;
    at("A").textContent = a;
    at("B").textContent = b;
    at("questions").replaceChildren(...data.questions.map(({ name, text }) => {
      const field = document.createElement("fieldset");
      const legend = document.createElement("legend");
      legend.textContent = text;
      field.append(legend, ...["A", "B", "equal"].map((value) => choice(item, name, value)));
      return field;
    }));
    progress();
  }

  function move(by) {
    index = Math.min(data.rows.length - 1, Math.max(0, index + by));
    show();
  }

  at("begin").addEventListener("click", () => {
    at("consent").hidden = true;
    at("rating").hidden = false;
    show();
  });
  at("back").addEventListener("click", () => move(-1));
  at("next").addEventListener("click", () => move(1));
  at("open").addEventListener("click", () => move(1));
  at("save").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([toCsv(data, answers)], { type: "text/csv" }));
    link.download = data.file;
    link.click();
    const missing = data.rows.filter((row) => !isDone(data, answers, row)).length;
    at("said").textContent = missing
      ? `Saved; ${missing} rows are not fully answered yet.`
      : "Saved, and complete. Send the file back. Thank you.";
  });
  at("load").addEventListener("change", async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    const loaded = fromCsv(data, await file.text());
    const number = Object.keys(loaded).length;
    at("said").textContent = number
      ? `${number} rows read.`
      : "No row of this sheet is in that file: is it another rater's?";
    answers = merged(answers, loaded);
    keep();
    show();
  });
}

if (typeof document !== "undefined") {
  start(JSON.parse(document.getElementById("data").textContent));
}
