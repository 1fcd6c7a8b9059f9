// Takes pictures that are chosen, pasted or dropped. Knows neither pad nor server.

export function bring(input, take, refuse) {
  const open = async (files) => {
    if (!files?.length) return;
    try {
      take(await createImageBitmap(files[0])); // turned upright, as the camera meant it
    } catch {
      refuse("This is no picture that can be read here. Take a PNG, JPEG or WebP.");
    }
  };
  input.addEventListener("change", async () => {
    await open(input.files);
    input.value = ""; // so that the same file can be chosen again
  });
  addEventListener("paste", (event) => open(event.clipboardData.files));
  addEventListener("dragover", (event) => event.preventDefault()); // or the page gives way to the file
  addEventListener("drop", (event) => {
    event.preventDefault();
    open(event.dataTransfer.files);
  });
}
