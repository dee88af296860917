// The patches of a slide and their values: decoded, found under the pointer, painted.
"use strict";

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// Places of patches, and which of them covers a point.
class PatchGrid {
  constructor(described) {
    this.side = described.side;
    const coords = new Int32Array(bytesOf(described.coords).buffer); // x, y, x, y, ...
    this.count = coords.length / 2;
    this.x = new Int32Array(this.count);
    this.y = new Int32Array(this.count);
    for (let i = 0; i < this.count; i += 1) {
      this.x[i] = coords[2 * i];
      this.y[i] = coords[2 * i + 1];
    }
    this.bucket();
    const across = PatchGrid.steps(this.x, this.side);
    const down = PatchGrid.steps(this.y, this.side);
    this.lattice = across && down ? { across, down } : null;
  }

  // Sort the patches into squares of the slide, so that few are looked at per question.
  bucket() {
    const lowest = (values) => values.reduce((a, b) => Math.min(a, b), Infinity);
    const highest = (values) => values.reduce((a, b) => Math.max(a, b), -Infinity);
    this.left = lowest(this.x);
    this.top = lowest(this.y);
    this.right = highest(this.x) + this.side;
    this.bottom = highest(this.y) + this.side;
    // Patches that lie far apart would need more squares than there are patches.
    const room = (this.right - this.left) * (this.bottom - this.top);
    this.cell = Math.max(this.side, Math.sqrt(room / (4 * this.count + 16)));
    this.columns = Math.floor((this.right - this.left) / this.cell) + 1;
    this.rows = Math.floor((this.bottom - this.top) / this.cell) + 1;
    const of = (i) =>
      Math.floor((this.y[i] - this.top) / this.cell) * this.columns +
      Math.floor((this.x[i] - this.left) / this.cell);
    this.starts = new Int32Array(this.columns * this.rows + 1);
    for (let i = 0; i < this.count; i += 1) this.starts[of(i) + 1] += 1;
    for (let c = 1; c < this.starts.length; c += 1) this.starts[c] += this.starts[c - 1];
    const next = this.starts.slice();
    this.sorted = new Int32Array(this.count);
    for (let i = 0; i < this.count; i += 1) {
      this.sorted[next[of(i)]] = i;
      next[of(i)] += 1;
    }
  }

  // Call visit(i) for each patch that touches a box of level-0 pixels, and perhaps a few beside it.
  within(box, visit) {
    const column = (x) => Math.floor((x - this.left) / this.cell);
    const row = (y) => Math.floor((y - this.top) / this.cell);
    const c0 = Math.max(0, column(box.left - this.side));
    const c1 = Math.min(this.columns - 1, column(box.right));
    const r0 = Math.max(0, row(box.top - this.side));
    const r1 = Math.min(this.rows - 1, row(box.bottom));
    if (c1 < c0) return;
    for (let r = r0; r <= r1; r += 1) {
      const end = this.starts[r * this.columns + c1 + 1];
      for (let k = this.starts[r * this.columns + c0]; k < end; k += 1) visit(this.sorted[k]);
    }
  }

  // The patch over a point whose middle is nearest, or -1.
  at(x, y) {
    let found = -1;
    let nearest = Infinity;
    this.within({ left: x, right: x, top: y, bottom: y }, (i) => {
      const dx = x - this.x[i];
      const dy = y - this.y[i];
      if (dx < 0 || dy < 0 || dx >= this.side || dy >= this.side) return;
      const distance = (dx - this.side / 2) ** 2 + (dy - this.side / 2) ** 2;
      if (distance < nearest) {
        nearest = distance;
        found = i;
      }
    });
    return found;
  }

  // Start, step, and number of steps a patch takes, where all positions lie on a regular grid
  // to a pixel (they were rounded); null where they do not.
  static steps(positions, side) {
    const places = Float64Array.from(new Set(positions)).sort();
    const start = places[0];
    if (places.length === 1) return { start, step: side, taken: 1, length: 1 };
    let least = Infinity;
    for (let i = 1; i < places.length; i += 1) least = Math.min(least, places[i] - places[i - 1]);
    const cells = new Float64Array(places.length);
    for (let i = 1; i < places.length; i += 1) {
      cells[i] = cells[i - 1] + Math.round((places[i] - places[i - 1]) / least);
    }
    let step = (places[places.length - 1] - start) / cells[cells.length - 1];
    for (let i = 0; i < places.length; i += 1) {
      if (Math.abs(places[i] - start - cells[i] * step) > 1) return null;
    }
    if (step > side) step /= Math.max(1, Math.round(step / side)); // rows between them are empty
    const taken = Math.round(side / step);
    if (taken < 1 || taken > 4 || Math.abs(side - taken * step) > 1) return null;
    const length = Math.round((places[places.length - 1] - start) / step) + taken;
    return length <= 8192 ? { start, step, taken, length } : null;
  }
}

// One value per patch, its colours, and a small picture of all of it.
class ValueLayer {
  constructor(described, grid) {
    Object.assign(this, described);
    this.grid = grid;
    this.palette = bytesOf(described.colours);
    this.values = null;
    this.ranked = null; // the stored values, where those shown are their percentiles
    this.sorted = null; // the values in ascending order, once a percentile was asked for
    this.painted = null; // {canvas, left, top, across, down, lattice}
    this.from = -Infinity;
  }

  bring({ values, ranked }) {
    this.values = new Float32Array(bytesOf(values).buffer);
    if (ranked) this.ranked = new Float32Array(bytesOf(ranked).buffer);
  }

  get isCategory() {
    return this.scale === "category";
  }

  known(value) {
    return this.isCategory ? value >= 0 : Number.isFinite(value);
  }

  // Number of the colour of a value: its category, or its step on the colour bar.
  colour(value) {
    if (this.isCategory) return Math.round(value);
    const [low, high] = this.limits;
    const share = Math.min(1, Math.max(0, (value - low) / (high - low)));
    return Math.round(share * (this.palette.length / 3 - 1));
  }

  css(colour) {
    const [r, g, b] = this.palette.subarray(3 * colour, 3 * colour + 3);
    return `rgb(${r},${g},${b})`;
  }

  // What a person reads of patch i: the stored value, to six digits, and where it stands.
  text(i) {
    const value = this.values[i];
    if (!this.known(value)) return "none";
    if (this.isCategory) return this.names[Math.round(value)];
    const stored = ValueLayer.number(this.ranked ? this.ranked[i] : value);
    const share = this.percentile(i);
    return share === null ? stored : `${stored} (${(100 * share).toFixed(1)}%)`;
  }

  // Whether a patch is said to stand above so many others.
  get hasPercentiles() {
    return this.ranked !== null || this.scale === "signed";
  }

  // Share of the patches with a smaller value, ties counted half; null where it says nothing.
  percentile(i) {
    if (!this.hasPercentiles) return null;
    if (this.ranked) return this.values[i];
    if (!this.sorted) this.sorted = this.values.filter((value) => this.known(value)).sort();
    const value = this.values[i];
    const below = ValueLayer.countBelow(this.sorted, (other) => other < value);
    const notAbove = ValueLayer.countBelow(this.sorted, (other) => other <= value);
    return (below + notAbove) / 2 / this.sorted.length;
  }

  // How many of the values, in ascending order, pass a test that small ones pass.
  static countBelow(sorted, passes) {
    let low = 0;
    let high = sorted.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (passes(sorted[middle])) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  static number(value, digits = 6) {
    return String(Number(value.toPrecision(digits))).replace("-", "\u2212"); // a minus sign
  }

  shows(i) {
    return this.known(this.values[i]) && (this.isCategory || this.values[i] >= this.from);
  }

  hideBelow(value) {
    if (value === this.from) return;
    this.from = value;
    this.painted = null;
  }

  paint() {
    if (!this.painted) {
      this.painted = this.grid.lattice ? this.paintLattice() : this.paintFree();
    }
    return this.painted;
  }

  // A pixel per cell of the grid. Where patches overlap, their mean stands; of categories the first.
  paintLattice() {
    const { across, down } = this.grid.lattice;
    const size = across.length * down.length;
    const sums = new Float64Array(size);
    const counts = new Uint16Array(size);
    for (let i = 0; i < this.grid.count; i += 1) {
      if (!this.shows(i)) continue;
      const column = Math.round((this.grid.x[i] - across.start) / across.step);
      const row = Math.round((this.grid.y[i] - down.start) / down.step);
      for (let r = row; r < row + down.taken; r += 1) {
        for (let c = column; c < column + across.taken; c += 1) {
          const cell = r * across.length + c;
          if (this.isCategory && counts[cell]) continue;
          sums[cell] += this.values[i];
          counts[cell] += 1;
        }
      }
    }
    const canvas = document.createElement("canvas");
    canvas.width = across.length;
    canvas.height = down.length;
    const context = canvas.getContext("2d");
    const pixels = context.createImageData(canvas.width, canvas.height);
    for (let cell = 0; cell < size; cell += 1) {
      if (!counts[cell]) continue;
      const colour = this.colour(sums[cell] / counts[cell]);
      pixels.data.set(this.palette.subarray(3 * colour, 3 * colour + 3), 4 * cell);
      pixels.data[4 * cell + 3] = 255;
    }
    context.putImageData(pixels, 0, 0);
    return { canvas, left: across.start, top: down.start, across: across.step, down: down.step,
             lattice: true };
  }

  // Patches anywhere: a picture for far views; near ones are drawn patch by patch.
  paintFree() {
    const { left, top, right, bottom, side } = this.grid;
    const pixel = Math.max(1, Math.max(right - left, bottom - top) / 4096);
    const canvas = document.createElement("canvas");
    canvas.width = Math.ceil((right - left) / pixel);
    canvas.height = Math.ceil((bottom - top) / pixel);
    const context = canvas.getContext("2d");
    for (let i = 0; i < this.grid.count; i += 1) {
      if (!this.shows(i)) continue;
      context.fillStyle = this.css(this.colour(this.values[i]));
      const x = Math.round((this.grid.x[i] - left) / pixel);
      const y = Math.round((this.grid.y[i] - top) / pixel);
      const width = Math.max(1, Math.round(side / pixel));
      context.fillRect(x, y, width, width);
    }
    return { canvas, left, top, across: pixel, down: pixel, lattice: false };
  }

  // Draw what lies in a box of level-0 pixels.
  draw(context, place, box, opacity) {
    const painted = this.paint();
    const few = 2000;
    const density = this.grid.count / Math.max(1, (this.grid.right - this.grid.left) *
      (this.grid.bottom - this.grid.top));
    const expected = density * (box.right - box.left) * (box.bottom - box.top);
    context.save();
    context.globalAlpha = opacity;
    if (painted.lattice || expected > few) this.drawPainted(context, place, box, painted);
    else this.drawPatches(context, place, box);
    context.restore();
  }

  drawPainted(context, place, box, painted) {
    const { canvas, left, top, across, down } = painted;
    const c0 = Math.max(0, Math.floor((box.left - left) / across));
    const c1 = Math.min(canvas.width, Math.ceil((box.right - left) / across));
    const r0 = Math.max(0, Math.floor((box.top - top) / down));
    const r1 = Math.min(canvas.height, Math.ceil((box.bottom - top) / down));
    if (c1 <= c0 || r1 <= r0) return;
    context.imageSmoothingEnabled = false;
    const x = place.x(left + c0 * across);
    const y = place.y(top + r0 * down);
    context.drawImage(canvas, c0, r0, c1 - c0, r1 - r0, x, y,
      place.x(left + c1 * across) - x, place.y(top + r1 * down) - y);
  }

  drawPatches(context, place, box) {
    this.grid.within(box, (i) => {
      if (!this.shows(i)) return;
      context.fillStyle = this.css(this.colour(this.values[i]));
      const x = Math.round(place.x(this.grid.x[i]));
      const y = Math.round(place.y(this.grid.y[i]));
      const right = Math.round(place.x(this.grid.x[i] + this.grid.side));
      const bottom = Math.round(place.y(this.grid.y[i] + this.grid.side));
      context.fillRect(x, y, right - x, bottom - y);
    });
  }

  // Borders of the patches, where they are large enough to be told apart.
  drawGrid(context, place, box, pixels) {
    const width = this.grid.side * place.scale;
    if (width < 6 * pixels) return;
    context.save();
    context.strokeStyle = "rgba(0,0,0,0.55)";
    context.lineWidth = pixels;
    context.beginPath();
    this.grid.within(box, (i) => {
      if (this.shows(i)) context.rect(place.x(this.grid.x[i]), place.y(this.grid.y[i]), width, width);
    });
    context.stroke();
    context.restore();
  }
}
