/* What the browser computes from column norms and singular values: the linked figures of the Diagnose panel (diagnose.js) draw it. */
(() => {
  "use strict";
  const GRID = Array.from({ length: 101 }, (_, i) => i / 100);
  const sum = (values) => values.reduce((a, b) => a + b, 0);
  const mean = (values) => {
    const finite = values.filter((value) => Number.isFinite(value));
    return finite.length ? sum(finite) / finite.length : null;
  };
  const range = (count) => Array.from({ length: count }, (_, i) => i);

  /** Column norms arrive as base64 of int16 thousandths of log10; the least value stands for a column that is zero. */
  const columnNorms = (text) => {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    return Float32Array.from(new Int16Array(bytes.buffer), (value) => (value === -32768 ? 0 : 10 ** (value / 1000)));
  };

  /** Which columns have a direction, 1 or 0: not zero, and not among those that Python calls round-off. */
  const living = (columns, dead) => columns.map((values, i) => {
    const alive = Uint8Array.from(values, (value) => (value > 0 ? 1 : 0));
    for (const c of dead[i]) alive[c] = 0;
    return alive;
  });

  /** Decouple by gamma, column by column: alpha^(1 - gamma) abar^gamma, abar the mean over the adapters that are alive there. */
  const decoupled = (columns, alive, gamma) => {
    if (gamma === 0) return columns;
    const result = columns.map((values) => Float32Array.from(values)); // what is not alive stays as it is
    for (let c = 0; c < columns[0].length; c += 1) {
      let total = 0;
      let count = 0;
      for (let i = 0; i < columns.length; i += 1) if (alive[i][c]) { total += columns[i][c]; count += 1; }
      const average = total / count;
      for (let i = 0; i < columns.length; i += 1) {
        if (alive[i][c]) result[i][c] = gamma === 1 ? average : columns[i][c] ** (1 - gamma) * average ** gamma;
      }
    }
    return result;
  };

  /** Variance across adapters of the weighted column norms over their squared mean, averaged over a module's live columns. */
  const variance = (columns, weights, from, to) => {
    const T = columns.length;
    let total = 0;
    let alive = 0;
    for (let c = from; c < to; c += 1) {
      let first = 0;
      let second = 0;
      for (let i = 0; i < T; i += 1) {
        const norm = columns[i][c] * weights[i];
        first += norm;
        second += norm * norm;
      }
      if (first > 0) {
        total += Math.max(0, (second / T) / (first / T) ** 2 - 1);
        alive += 1;
      }
    }
    return alive ? total / alive : 0;
  };

  /** Percentiles of log10 of what is not zero. */
  const quantiles = (values) => {
    const sorted = values.filter((value) => value > 0).sort();
    if (!sorted.length) return [];
    return GRID.map((q) => {
      const place = q * (sorted.length - 1);
      const low = Math.floor(place);
      const high = Math.min(low + 1, sorted.length - 1);
      const below = Math.log10(sorted[low]);
      return below + (place - low) * (Math.log10(sorted[high]) - below);
    });
  };

  const energies = (values, steps) => {
    const squares = values.map((value) => value ** 2);
    const total = sum(squares);
    let kept = 0;
    return range(steps).map((i) => (total ? (kept += squares[i] ?? 0) / total : null));
  };

  /** exp of the entropy of the singular values' shares: the rank if all are equal, 1 if one does all. */
  const effectiveRank = (values) => {
    const total = sum(values);
    return Math.exp(-sum(values.filter((value) => value > 0).map((value) => (value / total) * Math.log(value / total))));
  };

  window.mergescopeNorms = { GRID, sum, mean, range, columnNorms, living, decoupled, variance, quantiles, energies, effectiveRank };
})();
