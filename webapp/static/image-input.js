// Accepts images that the user chooses, pastes or drops.

// Calls onImage with an ImageBitmap of each image and its file, or onError with a message if a file is not an image.
export function onImage(input, { onImage, onError }) {
  const open = async (files) => {
    if (!files?.length) return;
    try {
      // This applies the orientation that the camera stored in the file.
      onImage(await createImageBitmap(files[0]), files[0]);
    } catch {
      onError("This file cannot be read as an image. Choose a PNG, JPEG or WebP file.");
    }
  };
  input.addEventListener("change", async () => {
    await open(input.files);
    input.value = ""; // Otherwise choosing the same file again would not be a change.
  });
  addEventListener("paste", (event) => open(event.clipboardData.files));
  // Without these two preventDefault calls, the browser would leave the page and open the file.
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => {
    event.preventDefault();
    open(event.dataTransfer.files);
  });
}
