"""Reports: pure functions from plain dicts to text, HTML and files. Knows nothing of models or runtimes."""

from keras_relu_suite.report.again import redraw
from keras_relu_suite.report.comparison import comparison_html, comparison_text
from keras_relu_suite.report.files import save
from keras_relu_suite.report.html import html
from keras_relu_suite.report.junit import junit
from keras_relu_suite.report.matrix import matrix
from keras_relu_suite.report.plain import as_json
from keras_relu_suite.report.slopes import slopes_picture, slopes_text
from keras_relu_suite.report.terminal import show
from keras_relu_suite.report.text import bundle_text, devices_text, inspection_text, rule_text, verification_text
from keras_relu_suite.report.units import window_text

__all__ = [
    "as_json", "bundle_text", "comparison_html", "comparison_text", "devices_text", "html", "inspection_text", "junit",
    "matrix", "redraw", "rule_text", "save", "show", "slopes_picture", "slopes_text", "verification_text",
    "window_text",
]  # fmt: skip
