"""TFLite: one `.tflite`."""
