"use strict";
// The leaderboard is drawn from the numbers in #data; everything is text, never markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const SVG = "http://www.w3.org/2000/svg";
  const P_VALUE = "logrank_p";
  const el = (name, attributes = {}, ...children) => {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  };
  const pick = (id) => document.getElementById(id);
  const cells = { mean: 0, low: 1, high: 2, flags: 5 };
  const unfolded = new Set();
  const sorting = data.tables.map(() => null);

  const text = (value, metric) => {
    if (value === null) return "\u2013";
    return metric === P_VALUE && value < 0.001 ? "<0.001" : value.toFixed(3);
  };
  const interval = (cell) =>
    cell[cells.low] === null ? "" : `[${cell[cells.low].toFixed(3)}, ${cell[cells.high].toFixed(3)}]`;
  // One that failed before its shots were known stands under none: it counts for all.
  const cellOf = (line, metric, shot) => {
    const byShot = line.cells[metric] || {};
    return byShot[shot] || byShot[0];
  };
  const named = (cell, name) => cell && cell[cells.flags].some((at) => data.flags[at][0] === name);
  const lack = (cell) =>
    named(cell, "undefined") ? "undefined"
      : named(cell, "failed") ? "failed"
      : named(cell, "no-gene-side") ? "no gene side" : "missing";

  // What is chosen.
  const shotsOf = (table) => {
    const wanted = pick("pick-shot").value;
    if (wanted === "most") return table.shots.slice(-1);
    if (wanted === "each") return table.shots;
    return table.shots.filter((shot) => String(shot) === wanted || shot === 0);
  };
  const metricOf = (table) => {
    const wanted = pick("pick-metric").value;
    if (!wanted) return table.metrics[0];
    return table.metrics.includes(wanted) ? wanted : null;
  };

  // Filter and search.
  const words = (line) =>
    [line.encoder, line.name, line.head, line.head_name, line.control || ""]
      .concat(
        Object.values(line.cells).flatMap((byShot) =>
          Object.values(byShot).flatMap((cell) => cell[cells.flags].map((at) => data.flags[at][0])),
        ),
      )
      .join(" ")
      .toLowerCase();
  const searched = new Map();
  const matches = (line, wanted) => {
    if (!searched.has(line)) searched.set(line, words(line));
    return wanted.every((word) => searched.get(line).includes(word));
  };

  const sorted = (lines, at, metric) => {
    const order = sorting[at];
    if (!order) return lines;
    const sign = order.ascending ? 1 : -1;
    const value = (line) => {
      if (order.by === "encoder") return line.name;
      if (order.by === "head") return line.head_name;
      const cell = cellOf(line, metric, order.by);
      return cell ? cell[cells.mean] : null;
    };
    return [...lines].sort((a, b) => {
      const x = value(a), y = value(b);
      if (x === y) return 0;
      if (x === null || x === undefined) return 1; // what is missing stays last
      if (y === null || y === undefined) return -1;
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
  };

  // Drawing.
  const scaleOf = (lines, metric, shot, chance) => {
    const known = lines
      .flatMap((line) => (cellOf(line, metric, shot) || []).slice(0, 3))
      .concat(chance === undefined ? [] : [chance])
      .filter((value) => value !== null);
    if (!known.length) return [0, 1];
    const low = Math.floor(10 * Math.min(...known)) / 10;
    const high = Math.ceil(10 * Math.max(...known)) / 10;
    return high > low ? [low, high] : [low, low + 0.1];
  };
  const bar = (cell, [low, high], chance) => {
    const x = (value) => (6 + (148 * (value - low)) / (high - low)).toFixed(1);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "ci");
    svg.setAttribute("viewBox", "0 0 160 14");
    svg.setAttribute("aria-hidden", "true");
    const add = (name, attributes) => {
      const node = document.createElementNS(SVG, name);
      for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
      svg.append(node);
    };
    const line = (kind, a, b, y1, y2) => add("line", { class: kind, x1: x(a), x2: x(b), y1, y2 });
    if (chance !== undefined) line("chance", chance, chance, 0, 14);
    if (cell[cells.low] !== null) line("ends", cell[cells.low], cell[cells.high], 7, 7);
    add("circle", { class: "mean", cx: x(cell[cells.mean]), cy: 7, r: 4 });
    return svg;
  };
  const flag = (at) => {
    const [name, meaning] = data.flags[at];
    return el("button", { type: "button", class: "flag", "data-tip": meaning }, name);
  };

  const row = (table, line, owner, metric, shots, scale, at) => {
    const tr = el("tr", { class: line.control ? "control" : "main" });
    const name = el("th", { scope: "row" }, line.name);
    if (line.control) name.append(" ", el("small", {}, line.control));
    const key = `${at}|${line.encoder}|${line.head}`;
    if (line.controls && !owner) {
      const open = unfolded.has(key) || pick("unfold").getAttribute("aria-pressed") === "true";
      const n = line.controls.length;
      const button = el(
        "button",
        { type: "button", class: "more", "aria-expanded": String(open), "data-key": key },
        `${open ? "\u2212" : "+"} ${n} control${n === 1 ? "" : "s"}`,
      );
      name.append(button);
    }
    tr.append(name, el("td", {}, line.head_name));
    const seen = new Set();
    for (const shot of shots) {
      const cell = cellOf(line, metric, shot);
      const td = el("td", { class: "value" });
      if (shots.length > 1) td.setAttribute("data-shot", `k=${shot}`);
      if (cell && cell[cells.mean] !== null)
        td.append(text(cell[cells.mean], metric), " ", el("small", {}, interval(cell)));
      else td.append(el("span", { class: "none" }, lack(cell)));
      tr.append(td);
      if (shots.length === 1) {
        const plot = el("td", { class: "plot" });
        if (cell && cell[cells.mean] !== null) plot.append(bar(cell, scale, table.chance[metric]));
        tr.append(plot);
      }
      for (const one of cell ? cell[cells.flags] : []) seen.add(one);
    }
    const marks = el("td");
    for (const one of seen)
      if (!table.common.includes(one) && !data.flags[one][0].startsWith("control:"))
        marks.append(flag(one), " ");
    tr.append(marks);
    return tr;
  };

  const header = (table, at, metric, shots, scale) => {
    const th = (label, by) => {
      const cell = el("th", { scope: "col" }, el("button", { type: "button", class: "sort" }, label));
      const order = sorting[at];
      const now = order && String(order.by) === String(by);
      cell.setAttribute("aria-sort", now ? (order.ascending ? "ascending" : "descending") : "none");
      cell.firstChild.dataset.by = by;
      cell.firstChild.dataset.at = at;
      return cell;
    };
    const tr = el("tr", {}, th("Encoder", "encoder"), th("Head", "head"));
    for (const shot of shots) {
      const k = shot ? `k=${shot}` : "";
      tr.append(th(shots.length > 1 ? k : data.titles[metric] + (k && `, ${k}`), shot));
      if (shots.length === 1)
        tr.append(
          el("th", { scope: "col", class: "plot" },
            el("span", {}, scale[0].toFixed(1)), el("span", {}, scale[1].toFixed(1))),
        );
    }
    tr.append(el("th", { scope: "col", class: "marks" }, "Flags"));
    return tr;
  };

  let total = 0, visible = 0;
  const drawTable = (box) => {
    const at = Number(box.dataset.at);
    const table = data.tables[at];
    const metric = metricOf(table);
    const shots = shotsOf(table);
    const wrongTask = pick("pick-task").value && pick("pick-task").value !== table.task;
    box.hidden = Boolean(wrongTask) || metric === null || !shots.length;
    if (box.hidden) return;
    const head = pick("pick-head").value;
    const wanted = pick("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    const everyControl = pick("unfold").getAttribute("aria-pressed") === "true";
    const all = table.lines.flatMap((line) => [line, ...(line.controls || [])]);
    const scale = shots.length === 1 ? scaleOf(all, metric, shots[0], table.chance[metric]) : null;
    const body = box.querySelector("tbody");
    const rows = [];
    for (const line of sorted(table.lines, at, metric)) {
      if (head && line.head !== head) continue;
      const controls = sorted(line.controls || [], at, metric);
      const hits = wanted.length ? controls.filter((one) => matches(one, wanted)) : [];
      const alone = Boolean(line.control); // a control of no encoder here
      if (wanted.length && !matches(line, wanted) && !hits.length) continue;
      if (alone && !everyControl && !wanted.length) {
        total += 1;
        continue;
      }
      rows.push(row(table, line, alone, metric, shots, scale, at));
      const open = everyControl || unfolded.has(`${at}|${line.encoder}|${line.head}`);
      for (const one of open ? controls : hits) rows.push(row(table, one, true, metric, shots, scale, at));
      total += open ? 0 : controls.length - hits.length;
    }
    visible += rows.length;
    total += rows.length;
    if (!rows.length) {
      const span = 3 + (shots.length === 1 ? 2 : shots.length);
      rows.push(el("tr", {}, el("td", { colspan: span, class: "empty" }, "No row fits the search.")));
    }
    box.querySelector("thead").replaceChildren(header(table, at, metric, shots, scale));
    body.replaceChildren(...rows);
    const wide = box.querySelector("table");
    wide.classList.toggle("each", shots.length > 1);
  };
  const boxes = [...document.querySelectorAll(".standing")];
  const draw = () => {
    total = visible = 0;
    boxes.forEach(drawTable);
    pick("count").textContent = `${visible} of ${total} rows`;
  };

  // What can be chosen.
  const fill = (id, options) =>
    pick(id).replaceChildren(...options.map(([value, label]) => el("option", { value }, label)));
  const distinct = (values) => [...new Set(values)];
  fill("pick-task", [["", "All"], ...distinct(data.tables.map((t) => t.task)).map((t) => [t, data.tasks[t]])]);
  fill("pick-metric", [
    ["", "First of each task"],
    ...distinct(data.tables.flatMap((t) => t.metrics)).map((metric) => {
      const less = data.directions[metric] < 0 ? " (less is better)" : "";
      return [metric, data.titles[metric] + less];
    }),
  ]);
  const shots = distinct(data.tables.flatMap((t) => t.shots)).filter(Boolean).sort((a, b) => a - b);
  fill("pick-shot", [
    ["most", "Most"], ...shots.map((k) => [k, `k=${k}`]), ["each", "Side by side"],
  ]);
  const heads = new Map(data.tables.flatMap((t) => t.lines.map((line) => [line.head, line.head_name])));
  fill("pick-head", [["", "All"], ...[...heads].sort()]);

  pick("choose").addEventListener("submit", (event) => event.preventDefault());
  for (const id of ["pick-task", "pick-metric", "pick-shot", "pick-head"])
    pick(id).addEventListener("change", draw);
  pick("search").addEventListener("input", draw);
  pick("unfold").addEventListener("click", () => {
    const pressed = pick("unfold").getAttribute("aria-pressed") !== "true";
    pick("unfold").setAttribute("aria-pressed", String(pressed));
    pick("unfold").textContent = pressed ? "Hide controls" : "Show controls";
    unfolded.clear();
    draw();
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.classList.contains("sort")) {
      const at = Number(button.dataset.at);
      const { by } = button.dataset;
      const metric = metricOf(data.tables[at]);
      const best = by === "encoder" || by === "head" || data.directions[metric] < 0;
      const before = sorting[at];
      const again = before && String(before.by) === by;
      sorting[at] = { by, ascending: again ? !before.ascending : best };
      draw();
      boxes[at].querySelector(`.sort[data-by="${by}"]`).focus();
    } else if (button.classList.contains("more")) {
      const { key } = button.dataset;
      if (pick("unfold").getAttribute("aria-pressed") === "true") {
        // All were open: keep the others so.
        for (const one of document.querySelectorAll(".more")) unfolded.add(one.dataset.key);
        pick("unfold").setAttribute("aria-pressed", "false");
        pick("unfold").textContent = "Show controls";
      }
      if (!unfolded.delete(key)) unfolded.add(key);
      draw();
      for (const one of document.querySelectorAll(".more"))
        if (one.dataset.key === key) one.focus();
    }
  });

  // What flags mean, on hover and focus.
  const tip = pick("tip");
  const hideTip = () => {
    tip.hidden = true;
    document.querySelector("[aria-describedby='tip']")?.removeAttribute("aria-describedby");
  };
  const showTip = (event) => {
    const button = event.target.closest?.("[data-tip]");
    if (!button || !button.dataset.tip) return;
    hideTip();
    button.removeAttribute("title");
    tip.textContent = button.dataset.tip;
    tip.hidden = false;
    button.setAttribute("aria-describedby", "tip");
    const place = button.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = Math.max(8, Math.min(place.left, innerWidth - size.width - 8));
    const above = place.bottom + size.height + 12 > innerHeight;
    tip.style.left = `${left}px`;
    tip.style.top = `${above ? place.top - size.height - 6 : place.bottom + 6}px`;
  };
  document.addEventListener("pointerover", showTip);
  document.addEventListener("focusin", showTip);
  document.addEventListener("pointerout", hideTip);
  document.addEventListener("focusout", hideTip);
  document.addEventListener("scroll", hideTip, true);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hideTip());

  // Light, dark, or as the system has it. A page opened from a file may have nowhere to keep it.
  const themes = { "": "as the system", light: "light", dark: "dark" };
  const keep = (value) => {
    try {
      localStorage.setItem("spade-bench-theme", value);
    } catch {}
  };
  const kept = () => {
    try {
      return localStorage.getItem("spade-bench-theme") || "";
    } catch {
      return "";
    }
  };
  const setTheme = (value) => {
    if (value) document.documentElement.dataset.theme = value;
    else delete document.documentElement.dataset.theme;
    pick("theme").textContent = `Theme: ${themes[value]}`;
    pick("theme").dataset.value = value;
  };
  pick("theme").addEventListener("click", () => {
    const order = Object.keys(themes);
    const next = order[(order.indexOf(pick("theme").dataset.value) + 1) % order.length];
    setTheme(next);
    keep(next);
  });
  setTheme(kept() in themes ? kept() : "");

  // On paper nothing is folded.
  let closed = [];
  let folded = false;
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
    folded = pick("unfold").getAttribute("aria-pressed") !== "true";
    if (folded) pick("unfold").click();
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
    if (folded) pick("unfold").click();
  });

  pick("choose").hidden = false;
  pick("theme").hidden = false;
  draw();
})();
