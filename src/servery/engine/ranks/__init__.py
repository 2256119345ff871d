"""The processes of a model that several compute: started, told what to do, watched, ended."""
