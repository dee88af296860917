"""Maps of a mixture of experts: which patches it sends where, and the genes it predicts there.

Nothing here knows an encoder by name. An encoder with experts offers `route(features)`, or its
feature files carry routing; one that predicts expression offers `gene_predictor(spots)`.
"""
