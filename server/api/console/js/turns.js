// @ts-check
// Work on the same rows or numbers, of which none may begin before the one before it has ended.

/**
 * Gives a function that runs what it gets when all that it got before has ended, whether well or not, and returns its
 * result. So an answer that took long cannot come behind a newer one, and undo it.
 * @returns {<T>(act: () => Promise<T>) => Promise<T>}
 */
export function oneByOne() {
  /** @type {Promise<unknown>} */
  let last = Promise.resolve();
  return (act) => {
    const mine = last.then(act, act);
    last = mine;
    return mine;
  };
}
