// The page of one slide: what is seen, how it moves, and what the panel says.
"use strict";

const received = { slide: null, layers: new Map() };

// The scripts that lie beside the page call these two.
function viewerSlide(described) {
  received.slide = described;
}

function viewerLayer(number, values, ranked) {
  received.layers.set(number, { values, ranked });
}

function viewerStart() {
  const { slide, layers } = received;
  if (!slide || layers.size !== slide.layers.length) {
    document.getElementById("name").textContent =
      "Files of this page are missing: copy the whole folder, not the page alone.";
    return;
  }
  window.viewer = new Viewer(slide, layers);
}

const byId = (id) => document.getElementById(id);

function element(tag, text = "", className = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (className) made.className = className;
  return made;
}

const MOST_ZOOM = 8; // screen pixels per level-0 pixel

class Viewer {
  constructor(slide, values) {
    this.slide = slide;
    this.canvas = byId("slide");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.pyramid = new TilePyramid(slide, () => this.redraw());
    const grids = slide.grids.map((described) => new PatchGrid(described));
    this.layers = slide.layers.map((one) => new ValueLayer(one, grids[one.grid]));
    values.forEach((texts, number) => this.layers[number].bring(texts));
    this.regions = slide.regions.map((one) => ({ ...one, path: Viewer.path(one.rings) }));
    this.hidden = new Set(); // numbers of the classes of regions that are not drawn
    this.view = { x: slide.width / 2, y: slide.height / 2, scale: 1 };
    this.shown = 0; // number of the layer
    this.beside = -1; // number of the layer in the second pane, or none
    this.spot = null; // the patch that a link led to
    this.pointer = null; // {x, y} on the canvas, in CSS pixels
    this.atHome = true;
    this.waiting = false;
    this.frames = 0;
    new Panel(this).fill();
    this.listen();
    this.resize();
    this.follow(location.hash);
  }

  static path(rings) {
    const path = new Path2D();
    for (const ring of rings) {
      ring.forEach(([x, y], i) => (i ? path.lineTo(x, y) : path.moveTo(x, y)));
      path.closePath();
    }
    return path;
  }

  // ---- where things are -------------------------------------------------------------------

  // The parts of the canvas, in CSS pixels: one, or two beside or above each other.
  panes() {
    const { width, height } = this;
    if (this.beside < 0) return [{ left: 0, top: 0, width, height, layer: this.shown }];
    const gap = 4;
    if (width >= height) {
      const half = (width - gap) / 2;
      return [
        { left: 0, top: 0, width: half, height, layer: this.shown },
        { left: half + gap, top: 0, width: half, height, layer: this.beside },
      ];
    }
    const half = (height - gap) / 2;
    return [
      { left: 0, top: 0, width, height: half, layer: this.shown },
      { left: 0, top: half + gap, width, height: half, layer: this.beside },
    ];
  }

  paneAt(x, y) {
    const inside = ({ left, top, width, height }) =>
      x >= left && y >= top && x < left + width && y < top + height;
    return this.panes().find(inside) || this.panes()[0];
  }

  // Level-0 pixel below a point of the canvas.
  below(x, y, pane = this.paneAt(x, y)) {
    const { view } = this;
    return {
      x: view.x + (x - pane.left - pane.width / 2) / view.scale,
      y: view.y + (y - pane.top - pane.height / 2) / view.scale,
    };
  }

  // From level-0 pixels to pixels of the canvas.
  place(pane) {
    const { view, ratio } = this;
    const left = (pane.left + pane.width / 2) * ratio;
    const top = (pane.top + pane.height / 2) * ratio;
    const scale = view.scale * ratio;
    return { x: (x) => left + (x - view.x) * scale, y: (y) => top + (y - view.y) * scale, scale };
  }

  box(pane) {
    const { view } = this;
    const across = pane.width / view.scale / 2;
    const down = pane.height / view.scale / 2;
    return { left: view.x - across, right: view.x + across, top: view.y - down,
             bottom: view.y + down };
  }

  get homeScale() {
    const [pane] = this.panes();
    return 0.96 * Math.min(pane.width / this.slide.width, pane.height / this.slide.height);
  }

  // ---- moving -----------------------------------------------------------------------------

  set(x, y, scale) {
    const least = Math.min(this.homeScale, 1) / 2;
    this.view = {
      x: Math.min(this.slide.width, Math.max(0, x)),
      y: Math.min(this.slide.height, Math.max(0, y)),
      scale: Math.min(MOST_ZOOM, Math.max(least, scale)),
    };
    this.atHome = false;
    this.redraw();
  }

  home() {
    this.set(this.slide.width / 2, this.slide.height / 2, this.homeScale);
    this.atHome = true;
  }

  // Zoom so that what is below a point of the canvas stays there.
  zoom(factor, at = null) {
    const pane = at ? this.paneAt(at.x, at.y) : this.panes()[0];
    const point = at || { x: pane.left + pane.width / 2, y: pane.top + pane.height / 2 };
    const fixed = this.below(point.x, point.y, pane);
    const least = Math.min(this.homeScale, 1) / 2;
    const scale = Math.min(MOST_ZOOM, Math.max(least, this.view.scale * factor));
    this.set(
      fixed.x - (point.x - pane.left - pane.width / 2) / scale,
      fixed.y - (point.y - pane.top - pane.height / 2) / scale,
      scale,
    );
  }

  move(dx, dy) {
    this.set(this.view.x + dx / this.view.scale, this.view.y + dy / this.view.scale,
      this.view.scale);
  }

  goTo(x, y, side) {
    this.spot = { x, y, side };
    const [pane] = this.panes();
    const scale = Math.min(pane.width, pane.height) / (4 * side);
    this.set(x + side / 2, y + side / 2, scale);
  }

  // Links lead to places: #at=LEFT,TOP,SIDE&layer=KEY, in level-0 pixels.
  follow(hash) {
    const asked = new URLSearchParams(hash.replace(/^#/, ""));
    const number = this.layers.findIndex((layer) => layer.key === asked.get("layer"));
    if (number >= 0) this.show(number);
    const at = (asked.get("at") || "").split(",").map(Number);
    if (at.length === 3 && at.every(Number.isFinite) && at[2] > 0) this.goTo(...at);
  }

  static link(patch, side) {
    const layer = encodeURIComponent(patch.layer);
    return `#at=${patch.x},${patch.y},${side}&layer=${layer}`;
  }

  // ---- what is shown ----------------------------------------------------------------------

  show(number) {
    this.shown = (number + this.layers.length) % this.layers.length;
    this.panel.follow();
    this.redraw();
  }

  showBeside(number) {
    this.beside = number;
    if (this.atHome) this.home();
    this.panel.follow();
    this.redraw();
  }

  redraw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => {
      this.waiting = false;
      this.draw();
    });
  }

  draw() {
    const { context, ratio } = this;
    const style = getComputedStyle(document.documentElement);
    context.fillStyle = style.getPropertyValue("--stage");
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    for (const pane of this.panes()) {
      context.save();
      context.beginPath();
      context.rect(pane.left * ratio, pane.top * ratio, pane.width * ratio, pane.height * ratio);
      context.clip();
      this.drawPane(pane);
      context.restore();
    }
    this.pyramid.trim();
    this.panel.scale();
    this.say();
    this.frames += 1;
  }

  drawPane(pane) {
    const { context, ratio, slide } = this;
    const place = this.place(pane);
    const box = this.box(pane);
    const left = place.x(0);
    const top = place.y(0);
    const width = slide.width * place.scale;
    const height = slide.height * place.scale;
    context.fillStyle = "#fff";
    context.fillRect(left, top, width, height);
    this.pyramid.draw(context, place, box, place.scale);
    const layer = this.layers[pane.layer];
    const opacity = byId("opacity").value / 100;
    if (byId("on").checked && opacity) {
      if (byId("grey").checked) {
        // Below colours that are values, tissue has no colour of its own.
        context.save();
        context.globalCompositeOperation = "saturation";
        context.fillStyle = "hsl(0, 0%, 50%)";
        context.fillRect(left, top, width, height);
        context.restore();
      }
      layer.draw(context, place, box, opacity);
    }
    if (byId("grid").checked) layer.drawGrid(context, place, box, ratio);
    if (byId("regions").checked) this.drawRegions(place);
    if (this.spot) this.frame(place, this.spot, ["#fff", "#d00"]);
  }

  drawRegions(place) {
    const { context, ratio } = this;
    for (const region of this.regions) {
      if (this.hidden.has(region.of)) continue;
      const rgb = this.slide.classes[region.of].colour;
      // A pale line has a dark edge, so that it is seen on glass.
      const edge = rgb.reduce((a, b) => a + b) < 600 ? "#fff" : "#000";
      context.save();
      context.translate(place.x(0), place.y(0));
      context.scale(place.scale, place.scale);
      context.lineJoin = "round";
      for (const [colour, width] of [[edge, 4], [Viewer.css(rgb), 2]]) {
        context.strokeStyle = colour;
        context.lineWidth = (width * ratio) / place.scale;
        context.stroke(region.path);
      }
      context.restore();
    }
  }

  static css([r, g, b]) {
    return `rgb(${r},${g},${b})`;
  }

  frame(place, { x, y, side }, [outer, inner]) {
    const { context, ratio } = this;
    for (const [colour, width] of [[outer, 5], [inner, 2.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.strokeRect(place.x(x), place.y(y), side * place.scale, side * place.scale);
    }
  }

  // Names of the regions that hold a point.
  regionsAt(x, y) {
    this.context.save();
    this.context.resetTransform();
    const inside = this.regions.filter((one) =>
      this.context.isPointInPath(one.path, x, y, "evenodd"));
    this.context.restore();
    return inside.map((one) => one.name);
  }

  // Say what is under the pointer: of each layer the number of the patch there.
  say() {
    if (!this.pointer) {
      this.panel.values(null);
      return;
    }
    const point = this.below(this.pointer.x, this.pointer.y);
    const patches = new Map();
    const found = this.layers.map((layer) => {
      if (!patches.has(layer.grid)) patches.set(layer.grid, layer.grid.at(point.x, point.y));
      const i = patches.get(layer.grid);
      return i < 0 ? null : i;
    });
    this.panel.values(found, point, this.pointer);
  }

  // ---- listening --------------------------------------------------------------------------

  resize() {
    const box = this.canvas.getBoundingClientRect();
    this.ratio = window.devicePixelRatio || 1;
    this.width = Math.max(1, box.width);
    this.height = Math.max(1, box.height);
    this.canvas.width = Math.round(this.width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    if (this.atHome) this.home();
    else this.redraw();
  }

  listen() {
    const { canvas } = this;
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    window.addEventListener("hashchange", () => this.follow(location.hash));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      const lines = event.deltaMode ? event.deltaY * 30 : event.deltaY;
      this.zoom(Math.exp(-Math.max(-300, Math.min(300, lines)) / 300), Viewer.point(event));
    }, { passive: false });
    canvas.addEventListener("dblclick", (event) => this.zoom(2, Viewer.point(event)));
    this.listenToPointers();
    window.addEventListener("keydown", (event) => this.key(event));
    for (const [id, act] of [["zoom-in", () => this.zoom(1.5)], ["zoom-out",
      () => this.zoom(1 / 1.5)], ["home", () => this.home()]]) {
      byId(id).addEventListener("click", act);
    }
  }

  static point(event) {
    return { x: event.offsetX, y: event.offsetY };
  }

  // One pointer moves the slide, two zoom it.
  listenToPointers() {
    const { canvas } = this;
    const held = new Map();
    const middle = () => {
      const points = [...held.values()];
      const x = points.reduce((sum, one) => sum + one.x, 0) / points.length;
      const y = points.reduce((sum, one) => sum + one.y, 0) / points.length;
      const wide = points.length < 2 ? 0
        : Math.hypot(points[0].x - points[1].x, points[0].y - points[1].y);
      return { x, y, wide };
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, Viewer.point(event));
      this.pointer = Viewer.point(event);
      this.redraw();
    });
    canvas.addEventListener("pointermove", (event) => {
      this.pointer = Viewer.point(event);
      if (held.has(event.pointerId)) {
        const before = middle();
        held.set(event.pointerId, Viewer.point(event));
        const after = middle();
        this.move(before.x - after.x, before.y - after.y);
        if (before.wide && after.wide) this.zoom(after.wide / before.wide, after);
      }
      this.redraw();
    });
    const release = (event) => held.delete(event.pointerId);
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("pointerleave", (event) => {
      if (event.pointerType !== "mouse") return; // what a finger touched stays
      this.pointer = null;
      this.redraw();
    });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.closest("select")) return;
    // These keys choose among radio buttons, move sliders and tick boxes.
    if (event.target.closest("input") && /^Arrow| /.test(event.key)) return;
    const step = 80;
    const acts = {
      "+": () => this.zoom(1.5),
      "=": () => this.zoom(1.5),
      "-": () => this.zoom(1 / 1.5),
      _: () => this.zoom(1 / 1.5),
      0: () => this.home(),
      ArrowLeft: () => this.move(-step, 0),
      ArrowRight: () => this.move(step, 0),
      ArrowUp: () => this.move(0, -step),
      ArrowDown: () => this.move(0, step),
      "[": () => this.show(this.shown - 1),
      "]": () => this.show(this.shown + 1),
      o: () => byId("on").click(),
      g: () => byId("grid").click(),
      r: () => byId("regions").click(),
    };
    const act = acts[event.key] || acts[event.key.toLowerCase()];
    if (!act) return;
    event.preventDefault();
    act();
  }
}
