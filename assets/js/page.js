/* Fills a page behind its summary. The summary is never drawn again, so that an open page stays open. */
const page = element.querySelector(".ms-scroll");
const fill = () => (page.innerHTML = props.value ?? "");
fill();
watch("value", fill);
