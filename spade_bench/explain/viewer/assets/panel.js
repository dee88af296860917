// The panel beside the slide: choices, colours explained, values, and the patches to look at.
"use strict";

class Panel {
  constructor(viewer) {
    this.viewer = viewer;
    viewer.panel = this;
  }

  fill() {
    const { slide } = this.viewer;
    byId("name").textContent = slide.slide;
    for (const mark of slide.marks) byId("marks").append(element("span", mark, "mark"));
    this.fillLayers();
    this.fillControls();
    this.fillTop();
    for (const [name, value] of slide.facts) {
      this.described(byId("facts"), name).textContent = value;
    }
    this.follow();
  }

  // Add a name with a place for what belongs to it.
  described(list, name) {
    const row = element("div");
    const value = element("dd");
    row.append(element("dt", name), value);
    list.append(row);
    return value;
  }

  fillLayers() {
    const { viewer } = this;
    this.rows = viewer.layers.map((layer, number) => {
      const label = element("label", "", "check");
      const radio = element("input");
      Object.assign(radio, { type: "radio", name: "layer", value: String(number) });
      radio.addEventListener("change", () => viewer.show(number));
      const value = element("output");
      label.append(radio, element("span", layer.title), value);
      byId("layers").append(label);
      return { radio, value };
    });
    byId("percent-note").hidden = !viewer.layers.some((layer) => layer.hasPercentiles);
    this.place = this.described(byId("place"), "Place (x, y)");
    this.region = viewer.regions.length ? this.described(byId("place"), "Region") : null;
    const beside = byId("beside");
    beside.append(new Option("nothing", "-1"));
    viewer.layers.forEach((layer, number) => beside.append(new Option(layer.title, number)));
    beside.value = "-1";
    beside.addEventListener("change", () => viewer.showBeside(Number(beside.value)));
  }

  fillControls() {
    const { viewer } = this;
    byId("opacity").addEventListener("input", () => {
      this.outputs();
      viewer.redraw();
    });
    byId("from").addEventListener("input", () => {
      for (const pane of viewer.panes()) viewer.layers[pane.layer].hideBelow(this.from(pane.layer));
      this.outputs();
      viewer.redraw();
    });
    // Some browsers keep what was chosen before the page was opened again.
    for (const [id, first] of [["on", true], ["grey", true], ["grid", false], ["regions", true]]) {
      byId(id).checked = first;
      byId(id).addEventListener("change", () => viewer.redraw());
    }
    byId("regions-row").hidden = !viewer.regions.length;
    this.fillClasses();
  }

  // A box per class of regions, with its colour; the box of all of them switches them together.
  fillClasses() {
    const { viewer } = this;
    viewer.slide.classes.forEach(({ name, colour }, number) => {
      const label = element("label", "", "check class");
      const box = element("input");
      Object.assign(box, { type: "checkbox", checked: true, autocomplete: "off" });
      box.addEventListener("change", () => {
        if (box.checked) viewer.hidden.delete(number);
        else viewer.hidden.add(number);
        viewer.redraw();
      });
      const line = element("span", "", "line");
      line.style.background = Viewer.css(colour);
      label.append(box, line, element("span", name));
      byId("classes").append(label);
    });
    const follow = () => {
      for (const box of byId("classes").querySelectorAll("input")) {
        box.disabled = !byId("regions").checked;
      }
    };
    byId("regions").addEventListener("change", follow);
    follow();
  }

  // The value below which patches of a layer are hidden.
  from(number) {
    const share = byId("from").value / 100;
    const [low, high] = this.viewer.layers[number].limits;
    return share ? low + share * (high - low) : -Infinity;
  }

  outputs() {
    const { viewer } = this;
    byId("opacity-value").textContent = `${byId("opacity").value}%`;
    const layer = viewer.layers[viewer.shown];
    const from = this.from(viewer.shown);
    byId("from-row").hidden = layer.isCategory;
    byId("from-value").textContent = Number.isFinite(from)
      ? ValueLayer.number(from, 3) : "none";
  }

  // Follow what the viewer shows.
  follow() {
    const { viewer } = this;
    const layer = viewer.layers[viewer.shown];
    this.rows[viewer.shown].radio.checked = true;
    byId("beside").value = String(viewer.beside);
    byId("slide").setAttribute("aria-label", `${viewer.slide.slide}. ${layer.title}, ${layer.legend}`);
    for (const pane of viewer.panes()) viewer.layers[pane.layer].hideBelow(this.from(pane.layer));
    this.outputs();
    const shown = viewer.panes().map((pane) => viewer.layers[pane.layer]);
    byId("legend").replaceChildren(...shown.map((one) => this.legend(one)));
    this.titles();
  }

  titles() {
    const { viewer } = this;
    const panes = viewer.beside < 0 ? [] : viewer.panes();
    byId("pane-titles").replaceChildren(...panes.map((pane) => {
      const title = element("span", viewer.layers[pane.layer].title);
      title.style.left = `${pane.left + 8}px`;
      title.style.top = `${pane.top + 8}px`;
      title.style.maxWidth = `${pane.width - 60}px`;
      return title;
    }));
  }

  legend(layer) {
    const box = element("figure");
    const caption = element("figcaption");
    caption.append(element("strong", layer.title), element("span", layer.legend));
    box.append(caption, layer.isCategory ? this.swatches(layer) : this.bar(layer));
    return box;
  }

  bar(layer) {
    const box = element("div", "", "colour-bar");
    const steps = layer.palette.length / 3;
    const stops = Array.from({ length: 33 }, (_, i) =>
      layer.css(Math.round((i / 32) * (steps - 1))));
    const strip = element("div", "", "strip");
    strip.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    const labels = element("div", "", "labels");
    const [low, high] = layer.limits;
    const known = layer.values.filter((value) => layer.known(value));
    // The ends of the colours may lie within the values: say that they stand for more.
    const tiny = (high - low) * 1e-6;
    const under = known.some((value) => value < low - tiny) ? "≤ " : "";
    const over = known.some((value) => value > high + tiny) ? "≥ " : "";
    const text = (value) => ValueLayer.number(value, 3);
    for (const label of [under + text(low), text((low + high) / 2), over + text(high)]) {
      labels.append(element("span", label));
    }
    box.append(strip, labels);
    return box;
  }

  swatches(layer) {
    const counts = new Map();
    for (const value of layer.values) counts.set(value, (counts.get(value) || 0) + 1);
    const list = element("ul", "", "swatches");
    layer.names.forEach((name, number) => {
      const item = element("li");
      const swatch = element("span", "", "swatch");
      swatch.style.background = layer.css(number);
      item.append(swatch, element("span", name), element("small", String(counts.get(number) || 0)));
      list.append(item);
    });
    return list;
  }

  // Say the value of each layer, given the number of its patch; null where there is none.
  values(found, point = null, pointer = null) {
    const { viewer } = this;
    const tip = byId("tip");
    tip.hidden = !found;
    this.place.textContent = found ? `${Math.floor(point.x)}, ${Math.floor(point.y)}` : "–";
    this.rows.forEach((row, number) => {
      const patch = found ? found[number] : null;
      row.value.textContent = patch === null ? "–" : viewer.layers[number].text(patch);
    });
    if (this.region) {
      const names = found ? viewer.regionsAt(point.x, point.y) : [];
      this.region.textContent = names.join(", ") || "–";
    }
    if (!found) return;
    const pane = viewer.paneAt(pointer.x, pointer.y);
    const patch = found[pane.layer];
    tip.hidden = patch === null || !byId("on").checked;
    if (tip.hidden) return;
    tip.textContent = viewer.layers[pane.layer].text(patch);
    const right = pointer.x > viewer.width - 120;
    tip.style.transform = `translate(${pointer.x + (right ? -12 : 14)}px, ${pointer.y + 14}px)` +
      (right ? " translateX(-100%)" : "");
  }

  fillTop() {
    const { viewer } = this;
    const { top } = viewer.slide;
    byId("top-section").hidden = !top.length;
    if (!top.length) return;
    const titles = new Map(viewer.layers.map((layer) => [layer.key, layer]));
    const groups = new Map(); // layer and end -> numbers of patches
    top.forEach((patch, number) => {
      const name = `${patch.lowest ? "Lowest" : "Highest"}: ${titles.get(patch.layer).title}`;
      if (!groups.has(name)) groups.set(name, []);
      groups.get(name).push(number);
    });
    const choice = byId("top-list");
    const names = [...groups.keys()];
    names.forEach((name, number) => choice.append(new Option(name, number)));
    const fill = () => {
      const items = groups.get(names[Number(choice.value)]).map((number) =>
        this.topItem(top[number], number, titles.get(top[number].layer).grid.side));
      byId("top").replaceChildren(...items);
    };
    choice.addEventListener("change", fill);
    fill();
  }

  topItem(patch, number, side) {
    const { viewer } = this;
    const link = element("a");
    link.href = Viewer.link(patch, side);
    link.addEventListener("click", () => {
      // The same link again does not change the address, and so leads nowhere by itself.
      if (location.hash === link.getAttribute("href")) viewer.follow(location.hash);
      byId("stage").scrollIntoView({ block: "nearest" });
    });
    const picture = element("img");
    const score = patch.score === null ? "none" : ValueLayer.number(patch.score, 4);
    Object.assign(picture, { src: `${viewer.slide.folder}/top/${number}.jpg`, alt: "",
                             loading: "lazy", width: 64, height: 64 });
    link.append(picture, element("b", `${patch.rank}`), element("span", score));
    link.title = `Rank ${patch.rank}, ${score}`;
    const item = element("li");
    item.append(link);
    return item;
  }

  // The scale bar: a round length of at most 140 screen pixels.
  scale() {
    const { viewer } = this;
    const { mpp } = viewer.slide;
    const each = (mpp || 1) / viewer.view.scale; // µm, or level-0 pixels, per screen pixel
    const most = 140 * each;
    const ten = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].map((n) => n * ten).find((n) => n <= most);
    byId("scale-bar").style.width = `${length / each}px`;
    const plain = (value) => ValueLayer.number(value, 3);
    if (!mpp) byId("scale-text").textContent = `${plain(length)} px`;
    else byId("scale-text").textContent =
      length >= 1000 ? `${plain(length / 1000)} mm` : `${plain(length)} µm`;
  }
}
