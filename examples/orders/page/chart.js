// The moving chart: the amount of each ten seconds by region, stacked, with the present at the right edge.

const SPAN = 300; // seconds

/** The smallest round number that is not below the value. */
function round(value) {
  const power = 10 ** Math.floor(Math.log10(Math.max(value, 1)));
  return [1, 2, 3, 4, 6, 8, 10].find((step) => step * power >= value) * power;
}

export class Chart {
  constructor(canvas, model, colour, money) {
    Object.assign(this, { canvas, model, colour, money, top: 1 });
    const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    const frame = () => {
      this.draw();
      still ? setTimeout(frame, 1000) : requestAnimationFrame(frame);
    };
    frame();
  }

  draw() {
    const { canvas } = this;
    const { clientWidth: width, clientHeight: height } = canvas;
    const ratio = devicePixelRatio;
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(canvas.parentElement);
    const quiet = getComputedStyle(canvas.previousElementSibling.firstElementChild).color;
    pen.font = `12px ${style.fontFamily}`;
    const area = { left: 48, right: width, top: 8, bottom: height - 22 };
    this.#axes(pen, area, quiet, style.borderTopColor);
    this.#bars(pen, area);
  }

  #axes(pen, area, quiet, line) {
    const sums = new Map();
    for (const [key, amount] of this.model.bars) {
      const at = key.split(" ")[0];
      sums.set(at, (sums.get(at) ?? 0) + amount);
    }
    // The scale follows slowly, so that the bars are seen to grow.
    const goal = round(Math.max(100, ...sums.values()) / 100) * 100;
    this.top += (goal - this.top) * (Math.abs(goal - this.top) < goal / 200 || this.top === 1 ? 1 : 0.12);
    pen.fillStyle = quiet;
    pen.strokeStyle = line;
    pen.textBaseline = "middle";
    pen.textAlign = "left";
    for (const share of [0, 0.5, 1]) {
      const y = Math.round(area.bottom - (area.bottom - area.top) * share) + 0.5;
      pen.beginPath();
      pen.moveTo(area.left, y);
      pen.lineTo(area.right, y);
      pen.stroke();
      pen.fillText(this.money(goal * share, 0), 0, y);
    }
    pen.textBaseline = "bottom";
    const marks = area.right < 500 ? [5, 3, 1] : [5, 4, 3, 2, 1];
    for (const minutes of marks) {
      pen.textAlign = minutes === 5 ? "left" : "center";
      pen.fillText(`${minutes} min`, this.#x(area, minutes * 60), area.bottom + 22);
    }
    pen.textAlign = "right";
    pen.fillText("now", area.right, area.bottom + 22);
  }

  #x(area, ago) {
    return area.right - ((area.right - area.left) * ago) / SPAN;
  }

  #bars(pen, area) {
    const { model } = this;
    const now = model.now();
    const names = model.names();
    const wide = ((area.right - area.left) * model.bar) / SPAN;
    const last = Math.floor(now / model.bar) * model.bar;
    pen.save();
    pen.beginPath();
    pen.rect(area.left, 0, area.right - area.left, area.bottom);
    pen.clip();
    for (let at = last; at > now - SPAN - model.bar; at -= model.bar) {
      let y = area.bottom;
      for (const name of names) {
        const amount = model.bars.get(`${at} ${name}`);
        if (!amount) continue;
        const tall = ((area.bottom - area.top) * amount) / this.top;
        pen.fillStyle = this.colour(name);
        pen.fillRect(this.#x(area, now - at) + 1, y - tall, wide - 2, Math.max(tall - 1.5, 0.5));
        y -= tall;
      }
    }
    pen.restore();
  }
}
