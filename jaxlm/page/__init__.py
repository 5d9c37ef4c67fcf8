"""A trained model as one web page, which runs it: what the page holds, and the page itself in HTML, CSS, JavaScript."""
