// The tiles of a slide: which are needed, which are here, and how they are drawn.
"use strict";

class TilePyramid {
  // levels: the finest first; each with folder, downsample, width, height and its tiles.
  constructor(slide, redraw) {
    this.folder = `${slide.folder}/tiles`; // already an address: nothing in it needs escaping
    this.tile = slide.tile;
    this.redraw = redraw;
    this.levels = slide.levels.map((level) => ({
      ...level,
      across: Math.ceil(level.width / slide.tile),
      down: Math.ceil(level.height / slide.tile),
      there: new Set(level.tiles),
    }));
    this.images = new Map(); // path -> image; the one used last is at the end
    this.most = 240;
  }

  // How many level-0 pixels a pixel of the picture may show at this zoom.
  levelFor(scale) {
    const fits = this.levels.filter((level) => level.downsample * scale <= 1.001);
    return fits.length ? fits[fits.length - 1] : this.levels[0];
  }

  // Draw what lies in a box of level-0 pixels; context takes level-0 pixels to the screen.
  // Coarse tiles come first, so that something is seen until the fine ones are there.
  draw(context, place, box, scale) {
    const target = this.levelFor(scale);
    const from = this.levels.indexOf(target);
    for (let i = this.levels.length - 1; i >= from; i -= 1) {
      const level = this.levels[i];
      const span = this.tile * level.downsample;
      const left = Math.max(0, Math.floor(box.left / span));
      const right = Math.min(level.across - 1, Math.floor(box.right / span));
      const top = Math.max(0, Math.floor(box.top / span));
      const bottom = Math.min(level.down - 1, Math.floor(box.bottom / span));
      for (let row = top; row <= bottom; row += 1) {
        for (let column = left; column <= right; column += 1) {
          if (level.there.has(row * level.across + column)) {
            this.drawTile(context, place, level, column, row);
          }
        }
      }
    }
  }

  drawTile(context, place, level, column, row) {
    const image = this.image(`${this.folder}/${level.folder}/${column}_${row}.jpg`);
    if (!image.ready) return;
    const span = this.tile * level.downsample;
    // Edges on whole pixels: no seams between neighbours.
    const x0 = Math.round(place.x(column * span));
    const y0 = Math.round(place.y(row * span));
    const x1 = Math.round(place.x(column * span + image.naturalWidth * level.downsample));
    const y1 = Math.round(place.y(row * span + image.naturalHeight * level.downsample));
    context.drawImage(image, x0, y0, x1 - x0, y1 - y0);
  }

  image(path) {
    let image = this.images.get(path);
    if (image) {
      this.images.delete(path);
    } else {
      image = new Image();
      image.ready = false;
      image.decoding = "async";
      image.onload = () => {
        image.ready = true;
        this.redraw();
      };
      image.src = path;
    }
    this.images.set(path, image);
    return image;
  }

  // Forget the images that were used longest ago; not while drawing, which needs them.
  trim() {
    for (const path of this.images.keys()) {
      if (this.images.size <= this.most) return;
      this.images.delete(path);
    }
  }

  get loading() {
    return [...this.images.values()].some((image) => !image.ready);
  }
}
