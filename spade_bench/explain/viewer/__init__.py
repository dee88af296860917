"""Maps of slides in a folder that a browser opens by double click, without a server or network."""
