"""The worked example: sentiment of film reviews, as in TensorFlow's tutorial on text classification with an RNN."""
