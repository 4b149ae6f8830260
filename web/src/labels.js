// Label images: decoded from runs, drawn as contours and fills.
import {numbers} from './data.js';

/** A label image, or a part of one: `place` is 0 for background, else 1 + the index of an object's id. */
export class Labels {
  constructor(made, palette) {
    this.width = made.w;
    this.height = made.h;
    this.ids = numbers(made.ids);
    this.colors = numbers(made.colors);
    this.palette = palette;
    const [whose, lengths] = [numbers(made.place), numbers(made.lengths)];
    this.place = new Int32Array(this.width * this.height);
    for (let i = 0, at = 0; i < whose.length; i++) {
      if (whose[i]) this.place.fill(whose[i], at, at + lengths[i]);
      at += lengths[i];
    }
  }

  /** The index of the object at a pixel, -1 for background. */
  at(x, y) {
    return x >= 0 && y >= 0 && x < this.width && y < this.height ? this.place[y * this.width + x] - 1 : -1;
  }

  /** A canvas with every pixel that `color` gives a colour for: [r, g, b, a] by object and whether it is on an edge. */
  picture(color) {
    const {width, height, place} = this;
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [width, height];
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let y = 0, at = 0; y < height; y++) {
      for (let x = 0; x < width; x++, at++) {
        const own = place[at];
        if (!own) continue;
        const edge = (x > 0 && place[at - 1] !== own) || (x < width - 1 && place[at + 1] !== own)
          || (y > 0 && place[at - width] !== own) || (y < height - 1 && place[at + width] !== own);
        const c = color(own - 1, edge);
        if (c) pixels[at] = (c[3] << 24) | (c[2] << 16) | (c[1] << 8) | c[0];
      }
    }
    canvas.getContext('2d').putImageData(image, 0, 0);
    return canvas;
  }

  color(index) {
    return this.palette[this.colors[index] % this.palette.length];
  }

  /** Lines along the outlines in a window of pixels, a path for each colour; each object's lie inside of it by `inset`. */
  outlines([left, top, right, bottom], inset, only = -1) {
    const {width, place} = this;
    const paths = new Map();
    const path = own => {
      const key = this.colors[own - 1] % this.palette.length;
      if (!paths.has(key)) paths.set(key, new Path2D());
      return paths.get(key);
    };
    const wanted = own => own && (only < 0 || own === only + 1);
    // Both directions alike: lines between rows, then between columns.
    const sweep = (a0, a1, b0, b1, at, line) => {
      for (let a = a0; a < a1; a++) {
        for (const [step, shift] of [[-1, inset], [1, 1 - inset]]) {
          let [begun, whose] = [0, 0];
          for (let b = b0; b <= b1; b++) {
            let own = b < b1 ? at(a, b) : 0;
            if (!wanted(own) || at(a + step, b) === own) own = 0;
            if (own !== whose) {
              if (whose) line(path(whose), a + shift, begun, b);
              [begun, whose] = [b, own];
            }
          }
        }
      }
    };
    const pixel = (y, x) => (x < 0 || y < 0 || x >= this.width || y >= this.height ? -1 : place[y * width + x]);
    const beyond = (own, other) => (other === -1 ? own : other);  // the edge of the image is no outline
    const rows = (y, x) => pixel(y, x);
    sweep(top, bottom, left, right, (y, x) => beyond(rows(Math.min(Math.max(y, 0), this.height - 1), x), pixel(y, x)), (p, y, x0, x1) => {
      p.moveTo(x0, y);
      p.lineTo(x1, y);
    });
    sweep(left, right, top, bottom, (x, y) => beyond(pixel(y, Math.min(Math.max(x, 0), this.width - 1)), pixel(y, x)), (p, x, y0, y1) => {
      p.moveTo(x, y0);
      p.lineTo(x, y1);
    });
    return paths;
  }
}
