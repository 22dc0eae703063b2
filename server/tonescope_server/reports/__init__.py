"""What is said of a whole data set: plain functions over an explainer and data, results out.

Commands and services draw and send what comes out of here. What one check looks at belongs to ``checks``, and what
one window is explained by to ``engine``.
"""
