/**
 * A scroll position that follows the end only where the end is what one looks at.
 *
 * Neighbours: `conversation` and `group` have one for their thread, and ask it before older
 * messages are put in front.
 * Invariant: what grows below never moves what is being read; at the end, the end stays in view in
 * the same frame in which it grew.
 */

/** Nearer to the end than a line of text is at the end. */
const END_PIXELS = 40;
/** Older messages are wanted before the first one is reached. */
const START_PIXELS = 900;

export class StickyScroll {
  isAtEnd = true;
  /** @type {HTMLElement | null} */
  #element = null;
  #lastTop = 0;
  /** @type {{article: Element, top: number} | null} what is being read, near the start, and where */
  #anchor = null;
  #observer = new ResizeObserver(() => this.#pin());
  #changed;
  #wanted;

  /**
   * @param {() => void} changed whether the end is in view changed
   * @param {() => void} wanted the beginning comes near
   */
  constructor(changed, wanted) {
    this.#changed = changed;
    this.#wanted = wanted;
  }

  /** To be given to lit's `ref`: the element that scrolls; its first child is what grows. */
  attach = (/** @type {Element | undefined} */ element) => {
    this.#observer.disconnect();
    this.#element = element instanceof HTMLElement ? element : null;
    if (this.#element === null) return;
    this.#element.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.#observer.observe(this.#element);
    if (this.#element.firstElementChild) this.#observer.observe(this.#element.firstElementChild);
    this.#pin();
  };

  /** Go there, and stay. */
  toEnd() {
    this.#stick(true);
    this.#pin();
  }

  /** Browsers keep a place when something comes before it, but not at the very start. */
  beforeOlder() {
    if (this.#element?.scrollTop === 0) this.#element.scrollTop = 1;
  }

  get isNearStart() {
    return this.#element !== null && this.#element.scrollTop < START_PIXELS;
  }

  #pin() {
    const element = this.#element;
    if (element === null) return;
    if (this.isAtEnd) element.scrollTop = element.scrollHeight;
    else if (this.#anchor?.article.isConnected) {
      // Browsers do this too, but not at the very start: there, one page would bring the next.
      const { article, top } = this.#anchor;
      element.scrollTop += Math.round(article.getBoundingClientRect().top - top);
    }
    this.#moved(element);
  }

  /** @param {HTMLElement} element */
  #moved(element) {
    this.#lastTop = element.scrollTop;
    this.#anchor = null;
    if (!this.isNearStart) return;
    const { top } = element.getBoundingClientRect();
    const articles = [...element.querySelectorAll("article")];
    const article = articles.find((one) => one.getBoundingClientRect().bottom > top);
    if (article) this.#anchor = { article, top: article.getBoundingClientRect().top };
    this.#wanted();
  }

  #scrolled() {
    const element = this.#element;
    if (element === null) return;
    const { scrollTop, scrollHeight, clientHeight } = element;
    const isNear = scrollHeight - scrollTop - clientHeight < END_PIXELS;
    // Only somebody who scrolls up leaves the end: growth alone does not.
    if (isNear) this.#stick(true);
    else if (scrollTop < this.#lastTop - 1) this.#stick(false);
    this.#moved(element);
  }

  /** @param {boolean} isAtEnd */
  #stick(isAtEnd) {
    if (this.isAtEnd === isAtEnd) return;
    this.isAtEnd = isAtEnd;
    this.#changed();
  }
}
