"""scikit-learn's GridSearchCV runs on any executor, and stores its arrays once.

python examples/executor_gridsearch.py
"""

from concurrent.futures import ProcessPoolExecutor

import joblib
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV

import ana
from ana.integrations.joblib import ExecutorBackend

if __name__ == "__main__":
    ana.set_dl(pickle_dir="pickles")
    X, y = make_classification(20_000, 20, random_state=0)
    search = GridSearchCV(LogisticRegression(), {"C": [0.01, 0.1, 1, 10]}, cv=5)

    with (
        ProcessPoolExecutor(2) as pool,  # or mpi4py's, executorlib's, Dask's: on other hosts, too
        ana.Executor(pool) as executor,
        joblib.parallel_config(ExecutorBackend(executor, workers=2), n_jobs=-1),
    ):
        search.fit(X, y)
    print("fits:", 5 * len(search.cv_results_["params"]), "best:", search.best_params_)
